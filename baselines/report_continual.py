"""The report of a stream of tasks: what each strategy learned and what it forgot, as one HTML file that needs nothing
else."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from baselines import report_format as fmt
from baselines.report import _definitions, _flat
from baselines.report_continual_figures import figures, matrices
from baselines.report_page import section, shell
from baselines.report_rows import cell, sheet, swatch
from baselines.report_svg import Look
from baselines.stats import mean_interval, paired_difference
from learning.files import write_atomic, write_error
from neurons.errors import UsageError

BOUNDS = ("naive", "joint", "cumulative")  # what others are measured between
LITTLE = 0.05  # of accuracy: less forgetting than this is little, learned less by more than this is much less
ANYTIME = {
    "aaa": ("Average anytime accuracy", "over all points of the curve"),
    "min_acc": ("Worst accuracy", "of each old task, averaged"),
    "wc_acc": ("Worst case", "last task, and the worst of the old"),
    "windowed_forgetting": ("Largest fall", "within 10 points"),
    "windowed_plasticity": ("Largest rise", "within 10 points"),
}

Document = dict[str, Any]


def read(path: Path) -> Document:
    """``continual.json`` of an experiment's folder; UsageError where it holds no such document."""
    file = path / "continual.json"
    try:
        document: Document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"'{path}' holds no readable continual.json. Try: neurons continual split-digits") from error
    if document.get("kind") != "continual" or not document.get("rows"):
        raise UsageError(f"'{file}' is no result of neurons continual (kind {document.get('kind')!r})")
    return document


def write(document: Document, path: Path) -> None:
    """Write the page of a continual.json document to ``path``: the same bytes for the same document."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    write_atomic(path, page(document).encode())


def page(document: Document) -> str:
    """The whole HTML document."""
    style = {row["label"]: Look(n, n + n // 8) for n, row in enumerate(document["rows"])}
    legend = "".join(f"<li>{swatch(look)}{escape(label)}</li>" for label, look in style.items())
    cards = [
        f'<figure role="group" aria-label="{escape(one.title)}"><h3>{escape(one.title)}</h3>\n{one.svg}\n'
        f"<figcaption>{escape(one.caption)}</figcaption></figure>"
        for one in figures(document, style)
    ]
    cards = [*cards[:2], *_gap(document, style), *cards[2:]]
    parts = [
        _head(document),
        _warnings(document),
        section(
            "Strategies",
            _strategies(document, style),
            "Means over seeds with 95 % t intervals. Read forgetting beside learning accuracy: what was never learned "
            "cannot be forgotten. Hover over a number for all its digits.",
        ),
        section("Figures", f'<ul class="legend">{legend}</ul>\n<div class="grid">\n{chr(10).join(cards)}\n</div>'),
        section(
            "The matrix R of each strategy",
            f'<div class="grid">\n{chr(10).join(matrices(document))}\n</div>',
            "Accuracy in per cent on a task (column) after training a task (row), mean over seeds. The framed diagonal "
            "is what was learned, below it what is left, above it tasks that are still to come. ACC is the mean of the "
            "last row.",
        ),
        section("Paired differences", _pairs(document), _paired_by(document)),
        section("Between the evaluations", _anytime(document), "Anytime metrics (De Lange et al. 2023)."),
        _protocol(document),
        _limits(document),
        section(
            "Do it again",
            f"<pre><code>{escape(str(document.get('command') or 'not known'))}</code></pre>",
            "The same seeds, thread count and machine give the same numbers; times vary.",
        ),
    ]
    return shell(f"{document['stream']}: neurons continual", parts)


def _seeds(document: Document) -> str:
    count = len(document["seeds"])
    return "1 seed" if count == 1 else f"{count} seeds"


def _head(document: Document) -> str:
    told = "told the task at test" if document["scenario"] == "task" else "not told the task at test"
    facts = [f"{document['tasks']} tasks", f"{document['scenario']}-incremental: {told}"]
    facts += [f"outputs that compete: {document['active']}", _seeds(document), f"split: {document['split']}"]
    facts += [f"metrics as {document['metrics_as']}"]
    return (
        f'<header>\n<p class="eyebrow">neurons continual · {escape(document["stream"])}</p>\n'
        f'<h1 id="verdict">{escape(document["verdict"])}</h1>\n'
        f'<p class="facts">{"".join(f"<span>{escape(fact)}</span>" for fact in facts)}</p>\n</header>'
    )


def _warnings(document: Document) -> str:
    """What a reader would get wrong from the numbers alone."""
    rows = document["rows"]
    said = []
    if document["split"] != "test":
        said.append("These are held-out rows, for choosing options: results are reported on test.")
    told = [row["label"] for row in rows if row["sees_task_id"]]
    if document["scenario"] != "task" and told:
        said.append(f"Told the task of each test sample, which the others are not: {', '.join(told)}.")
    naive = next((row["learning_accuracy"]["mean"] for row in rows if row["label"] == "naive"), None)
    for row in rows:
        learned, lost = row["learning_accuracy"]["mean"], fmt.finite(fmt.dig(row, "forgetting", "mean"))
        if naive is None or lost is None or row["label"] in BOUNDS:
            continue
        if lost < LITTLE and learned < naive - LITTLE:
            said.append(
                f"{row['label']} forgets little ({fmt.metric(lost, 'acc')}) and has learned less than naive: "
                f"{fmt.metric(learned, 'acc')} against {fmt.metric(naive, 'acc')} on a task just trained."
            )
    if len(document["seeds"]) < 5:
        said.append(f"{_seeds(document).capitalize()}: five are the least that the field reports.")
    items = "".join(f"<li>{escape(text)}</li>" for text in said)
    return f'<aside class="warnings">\n<h2>Read this first</h2>\n<ul>{items}</ul>\n</aside>' if items else ""


def _own(document: Document, label: str) -> list[dict[str, Any]]:
    return [result for result in document["results"] if result["strategy"]["label"] == label]


def _strategies(document: Document, style: dict[str, Look]) -> str:
    head = [("", ""), ("ACC", "mean of R's last row"), ("Forgetting", "mean fall from each best; low is good")]
    head += [("BWT", "change since learned"), ("Learning accuracy", "mean of R's diagonal")]
    head += [("FWT", "ahead of the untrained"), ("Gap closed", "naive to joint")]
    head += [("Kept", "bytes beside the weights"), ("Weights", "bytes"), ("Time", "of training, a seed")]
    lines = []
    for row in document["rows"]:
        label, kept = row["label"], row["memory"]
        badge = '<span class="badge">told the task</span>' if row["sees_task_id"] else ""
        cells = f'<th scope="row">{swatch(style[label])}<span class="name">{escape(label)}</span>{badge}</th>'
        for key in ("acc", "forgetting", "bwt", "learning_accuracy"):
            mean, low, high = (fmt.dig(row, key, end) for end in ("mean", "low", "high"))
            each = " · ".join(fmt.metric(one["metrics"][key], "acc", unit=False) for one in _own(document, label))
            cells += cell(
                fmt.metric(mean, "acc"), key, mean, [fmt.interval(low, high, "acc"), each if key == "acc" else ""]
            )
        ahead = [one["metrics"].get("fwt") for one in _own(document, label)]
        fwt = None if None in ahead else sum(ahead) / len(ahead)
        cells += cell("undefined" if fwt is None else fmt.metric(fwt, "acc"), "fwt", fwt)
        closed = row["gap_closed"]
        cells += cell(fmt.NOTHING if closed is None else _percent(closed), "gap_closed", closed)
        beside = [f"{name} {fmt.size(kept[name])}" for name in ("state", "buffer") if kept[name]]
        cells += cell(fmt.size(kept["state"] + kept["buffer"]), "kept", kept["state"] + kept["buffer"], beside)
        cells += cell(fmt.size(kept["parameters"]), "weights", kept["parameters"])
        lines.append(f"<tr>{cells}{cell(fmt.seconds(row['seconds']), 'seconds', row['seconds'])}</tr>")
    return sheet("strategies", head, lines)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %".replace("-", "−")


def _gap(document: Document, style: dict[str, Look]) -> list[str]:
    """Bars of the part of the way from naive to joint, or nothing."""
    known = [
        row for row in document["rows"] if row["gap_closed"] is not None and row["label"] not in ("naive", "joint")
    ]
    if not known:
        return []
    known = sorted(known, key=lambda row: -row["gap_closed"])
    bars = "".join(
        f"<li><span>{escape(row['label'])}</span><b>{_percent(row['gap_closed'])}</b>"
        f'<i style="width:{100 * min(max(row["gap_closed"], 0.0), 1.0):.1f}%;background:{style[row["label"]].colour}">'
        "</i></li>"
        for row in known
    )
    title = "Gap from naive to joint closed"
    caption = "0 %: no better than training task after task. 100 %: as good as all tasks at once, the full width."
    return [
        f'<figure role="group" aria-label="{title}"><h3>{title}</h3><ul class="bars">{bars}</ul>'
        f"<figcaption>{caption}</figcaption></figure>"
    ]


def _best(document: Document) -> str:
    """The strategy that the verdict names: the best that is not a bound."""
    rows = [row for row in document["rows"] if row["label"] not in BOUNDS] or document["rows"]
    return str(max(rows, key=lambda row: row["acc"]["mean"])["label"])


def _references(document: Document) -> list[str]:
    naive = ["naive"] if any(row["label"] == "naive" for row in document["rows"]) else []
    return list(dict.fromkeys([*naive, _best(document)]))


def _paired_by(document: Document) -> str:
    count = (len(document["rows"]) - 1) * len(_references(document))
    more = f" {count} differences are tested and nothing is corrected for that." if count > 1 else ""
    return f"ACC, paired by seed; 95 % t interval and two-sided p of no difference.{more}"


def _pairs(document: Document) -> str:
    """ACC of every strategy less that of naive, and less that of the best; nothing for a single strategy."""
    if len(document["rows"]) < 2:
        return ""
    values = {row["label"]: [one["metrics"]["acc"] for one in _own(document, row["label"])] for row in document["rows"]}
    against, head = _references(document), [("Strategy", "")]
    for name in against:
        head += [(f"minus {name}", "points"), ("95 %", ""), ("p", "")]
    lines = []
    for label, own in values.items():
        cells = f'<th scope="row"><span class="name">{escape(label)}</span></th>'
        for name in against:
            if label == name:
                cells += '<td colspan="3" class="none">reference</td>'
                continue
            found = paired_difference(own, values[name])
            spread = fmt.interval(found.low, found.high, "acc", signed=True) or fmt.NOTHING
            cells += cell(fmt.difference(found.mean, "acc"), f"to-{against.index(name)}", found.mean)
            cells += cell(spread, "interval") + cell(fmt.number(found.p), "p", found.p)
        lines.append(f"<tr>{cells}</tr>")
    return sheet("pairs", head, lines)


def _anytime(document: Document) -> str:
    """A line a strategy where a curve was asked for, else nothing."""
    lines = []
    for row in document["rows"]:
        own, cells = _own(document, row["label"]), ""
        for key in ANYTIME:
            known = [one["metrics"][key] for one in own if one["metrics"].get(key) is not None]
            found = mean_interval(known) if known else None
            spread = fmt.interval(found.low, found.high, "acc") if found else ""
            cells += cell(fmt.metric(found and found.mean, "acc"), key, found and found.mean, [spread])
        if own[0].get("curve"):
            name = f'<th scope="row"><span class="name">{escape(row["label"])}</span></th>'
            lines.append(f"<tr>{name}{cells}</tr>")
    return sheet("anytime", [("Strategy", ""), *ANYTIME.values()], lines) if lines else ""


def _protocol(document: Document) -> str:
    config = document["config"]
    facts = [("stream", document["protocol"]), ("split hash", document["split_hash"])]
    facts += _flat({"seeds": document["seeds"]}) + _flat(config["stream"]["options"], "stream")
    facts += [("model", _told(config["model"])), ("rule", _told(config["rule"]))] if _trained(config) else []
    facts += _flat(config["trainer"], "trainer") if _trained(config) else []
    facts += [(f"{one['kind']} {one['label']}", _told(one)) for one in config["strategies"]]
    environment = _flat(document.get("env"))
    body = _definitions(facts) + (f"\n<h3>Environment</h3>\n{_definitions(environment)}" if environment else "")
    return section("Protocol and provenance", body)


def _trained(config: dict[str, Any]) -> bool:
    """Whether model, rule and trainer of the configuration were used: learners bring their own."""
    return any(one["kind"] == "strategy" for one in config["strategies"])


def _told(part: dict[str, Any]) -> str:
    options = ", ".join(f"{key} {value}" for key, value in part["options"].items())
    return f"{part['name']}: {options}" if options else str(part["name"])


def _limits(document: Document) -> str:
    joint = any(row["label"] in ("joint", "cumulative") for row in document["rows"])
    said = [
        "The intervals cover the seeds: initialisation and the order of the data, not another order of the tasks, "
        "another split or other settings.",
        "Every strategy takes the same training steps; memory differs, and the table says by how much.",
        "joint and cumulative keep the rows of other tasks at hand: they are bounds, no strategies." if joint else "",
        "FWT is undefined in a class-incremental stream: no output of a task to come can win."
        if document["scenario"] == "class"
        else "",
        "Times belong to the machine named above and to what else ran on it.",
    ]
    return section("Limits", f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in said if text)}</ul>")
