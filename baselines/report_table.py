"""What stands in the tables of a comparison: the columns, the reference row, and the short table for a README."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from baselines import report_format as fmt
from baselines.ablations import outcome
from baselines.rows import full_models


@dataclass(frozen=True)
class Column:
    """One number per row: ``at`` is where it stands in compare.json's row, ``show`` writes it."""

    head: str
    hint: str
    at: tuple[str, ...]
    show: Callable[[object], str]


def _per_second(value: object) -> str:
    return fmt.count(value, "/s")


def _milliseconds(value: object) -> str:
    return fmt.seconds(None if (known := fmt.finite(value)) is None else known / 1000)


LEARNING = (
    Column("Parameters", "no embeddings", ("parameters", "non_embedding"), fmt.count),
    Column("In attention", "of these", ("parameters", "attention"), fmt.count),
    Column("Cosine", "to backprop's gradient", ("cosine_to_backprop", "end"), fmt.number),
    Column("Stationarity", "0 is settled", ("stationarity",), fmt.number),
)
COST = (
    Column("Training", "wall time", ("train", "seconds"), fmt.seconds),
    Column("Steps", "updates", ("train", "steps"), fmt.number),
    Column("Passes", "per step", ("passes",), fmt.number),
    Column("Speed", "training", ("train", "samples_per_second"), _per_second),
    Column("MACs", "all training", ("cost", "train_macs"), fmt.count),
    Column("MACs", "inference", ("cost", "inference_macs"), fmt.count),
    Column("Latency", "one sample", ("inference", "latency_ms"), _milliseconds),
    Column("Speed", "inference", ("inference", "samples_per_second"), _per_second),
    Column("Memory", "peak", ("memory", "peak_bytes"), fmt.size),
    Column("Saved", "activations", ("memory", "saved_activation_bytes"), fmt.size),
    Column("Attention", "exponent", ("attention_scaling", "exponent"), fmt.number),
)


def reference(compare: dict) -> str | None:
    """The label the others are held against: backprop, of a baseline if one ran; of those the most paired one.

    The first model is what a comparison is about (its verdict says so), later ones are its baselines. A model taken
    apart is its own: the rows that lack a component are held against the full one.
    """
    pairs = compare.get("pairs") or []
    order = [row["label"] for row in compare.get("rows") or []]
    rows = {row["label"]: row for row in compare.get("rows") or []}

    def rank(label: str) -> tuple[bool, bool, bool, int, int]:
        partners = {p["b"] for p in pairs if p["a"] == label} | {p["a"] for p in pairs if p["b"] == label}
        row, first = rows[label], rows[order[0]]
        backprop, baseline = row.get("rule") == "backprop", row.get("model") != first.get("model")
        return not row.get("control"), backprop, baseline, len(partners), -order.index(label)

    lacking = full_models(order)
    if lacking:
        return next(label for label in order if label in lacking.values())
    named = {pair[side] for pair in pairs for side in ("a", "b")}
    return max((label for label in order if label in named), key=rank, default=None)


def to_reference(compare: dict, label: str) -> dict | None:
    """The paired difference ``label`` minus the reference: {difference, low, high, n, p}; None where there is none."""
    base = reference(compare)
    for pair in compare.get("pairs") or []:
        if (pair["a"], pair["b"]) == (label, base):
            return dict(pair)
        if (pair["a"], pair["b"]) == (base, label):
            low, high, gap = (fmt.finite(pair.get(key)) for key in ("low", "high", "difference"))
            turned = {"low": None if high is None else -high, "high": None if low is None else -low}
            return {**pair, "a": label, "b": base, "difference": None if gap is None else -gap, **turned}
    return None


def _markdown_cell(text: str) -> str:
    clean = " ".join(text.split())
    return clean.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def markdown_table(compare: dict) -> str:
    """The compact GitHub table: one line per row and floor, no trailing newline."""
    name = str(fmt.dig(compare, "primary", "name"))
    head = [
        "model",
        "rule",
        fmt.words(name),
        "n",
        "parameters",
        "in attention",
        "train (s)",
        "latency (ms)",
        "cosine to backprop",
    ]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for row in compare.get("rows") or []:
        rule = fmt.rule_of(row) + (" *(control)*" if row.get("control") else "")
        if row.get("unsupported") is not None:
            lines.append([str(row.get("model")), rule, f"n/a: {row['unsupported']}", *[""] * (len(head) - 3)])
            continue
        lines.append(
            [
                str(row.get("model")),
                rule,
                fmt.plus_minus(row.get("value"), name),
                str(row.get("n", fmt.NOTHING)),
                *(fmt.count(fmt.dig(row, "parameters", key)) for key in ("non_embedding", "attention")),
                fmt.number(fmt.dig(row, "train", "seconds")),
                fmt.number(fmt.dig(row, "inference", "latency_ms")),
                fmt.number(fmt.dig(row, "cosine_to_backprop", "end")),
            ]
        )
    for floor, value in (compare.get("floors") or {}).items():
        lines.append([f"*floor:* {floor}", "", fmt.metric(value, name), *[""] * (len(head) - 3)])
    return markdown(lines)


def components_table(compare: dict) -> str:
    """The compact GitHub table of a model taken apart: one line per component, the most useful first."""
    name = str(fmt.dig(compare, "primary", "name"))
    components = fmt.dig(compare, "ablations", "components")
    listed = components if isinstance(components, list) else []
    several = len({one["full"] for one in listed}) > 1
    unit = ", points" if fmt.is_fraction(name) else ""
    head = ["component", "rule", f"difference{unit}", "95 % interval", "n", ""]
    lines = [head, ["---", "---", "---:", "---:", "---:", "---"]]
    lines += [
        [
            str(one["component"]),
            str(one["rule"]),
            fmt.difference(one["difference"], name),
            fmt.interval(one["low"], one["high"], name, signed=True) or fmt.NOTHING,
            str(one["n"] or 0),
            outcome(one),
        ]
        for one in listed
    ]
    return markdown(lines if several else [[cell for i, cell in enumerate(line) if i != 1] for line in lines])


def markdown(lines: list[list[str]]) -> str:
    """A GitHub table of ``lines``, its first the head and its second the rule beneath; no trailing newline."""
    return "\n".join("| " + " | ".join(_markdown_cell(text) for text in line) + " |" for line in lines)
