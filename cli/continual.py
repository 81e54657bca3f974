"""``neurons continual``: strategies x seeds on a stream of tasks; what is learned and what is forgotten."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from baselines import report_format as shown
from baselines.continual_config import MODEL, STRATEGIES_SHOWN, resolve_continual
from cli import common, table
from cli.compare import _seeds
from cli.runs import flat
from neurons.errors import UsageError

MATRICES = 2  # R of so many strategies is printed
SHADES = (235, 237, 239, 241, 243, 245, 247, 249, 251, 253)  # of 256 terminal colours, dark is low


@click.command()
@click.argument("stream")
@click.option("--strategies", metavar="A,B", help=f"Strategies, learners.  [default: {','.join(STRATEGIES_SHOWN)}]")
@click.option("--model", default=MODEL, show_default=True, help="Model, with options if need be.")
@click.option("--rule", default="backprop", show_default=True, help="Learning rule.")
@click.option("--seeds", metavar="N|0,1,2", default="5", show_default=True, help="How many seeds, or which.")
@click.option("--scenario", type=click.Choice(["task", "domain", "class"]), help="What is told, and what competes.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs a task.  [default: 10]")
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="A.B=C",
    help="Set one option, as stream.tasks=5, trainer.lr=1e-4 or ewc.strength=30. Repeatable.",
)
@click.option(
    "--metrics-as",
    type=click.Choice(["chaudhry", "gem", "avalanche", "mammoth", "diaz"]),
    default="chaudhry",
    show_default=True,
    help="Whose definitions of ACC, BWT, FWT and forgetting.",
)
@click.option("--every", type=click.IntRange(min=1), help="Evaluate after so many steps too: anytime metrics.")
@click.option(
    "--split",
    type=click.Choice(["test", "held_out"]),
    default="test",
    show_default=True,
    help="held_out is for choosing options.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Strategies at the same time.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads of each.")
@click.option("--data-dir", help="Folder with local data sets.  [env: NEURONS_DATA_DIR]")
@click.option("--out", type=click.Path(path_type=Path), help="Where to write; never an existing run.")
@click.option("--resume", type=click.Choice(["auto"]), help="Keep what is finished in --out and do the rest.")
@common.dry_run
@common.as_json
@common.debug
def command(
    stream: str, strategies: str | None, seeds: str, jobs: int, out: Path | None, resume: str | None, dry_run: bool,
    as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Train strategies on a stream of tasks; print what they learn and forget.

    STREAM is one of neurons list streams; strategies and learners have lists too. R[i, j] is the accuracy on task j
    after training task i. ACC is the mean of R's last row, F the mean fall from each task's best, BWT the mean change
    since a task was learned, learned the mean of the diagonal. Memory is what a strategy keeps beside the weights.
    --out gets continual.json and report.html, one self-contained page: verdict, table, R of every strategy, curves of
    every task, accuracy against memory, paired differences; neurons report FOLDER -o PAGE writes it again.

    \b
    Examples:
      neurons continual permuted-digits --seeds 5 --jobs 2
      neurons continual sentiment-domains --epochs 3 --strategies naive,joint,ewc,replay,sdr-memory
      neurons continual split-digits --scenario class --strategies naive,joint,replay:size=200
      neurons continual split-digits --strategies sdr-memory:patch=5:winners=0.1
    """
    chosen = _seeds(seeds)
    config = resolve_continual(
        stream, strategies=common.comma_list(strategies),
        seeds=list(range(chosen)) if isinstance(chosen, int) else chosen or [], **flags,
    )  # fmt: skip
    if dry_run:
        return _plan(config, as_json)
    if resume and out is None:
        raise UsageError("--resume auto needs the --out of the interrupted experiment")
    from baselines.continual_run import continual

    place = out or _free(Path("runs") / stream)
    typed = shlex.join(["neurons", *(click.get_current_context().obj or [])])
    document = continual(config, out=place, jobs=jobs, resume=resume is not None, command=typed)
    if as_json:
        return common.emit("continual", document)
    click.echo(continual_text(document, table.terminal_width(), colour=sys.stdout.isatty()))
    click.echo(f"\nresults  {place / 'continual.json'}\nreport   {place / 'report.html'}")
    return None


def _free(base: Path) -> Path:
    number, place = 2, base / "continual"
    while place.exists():
        number, place = number + 1, base / f"continual-{number}"
    return place


def _plan(config: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return common.emit("continual-plan", {"config": config})
    named = {key: value for key, value in config.items() if key not in ("schema", "strategies")}
    named |= {f"strategy {one['label']}": one["options"] for one in config["strategies"]}
    pairs = [(key, "none" if value is None else str(value)) for key, value in flat(named).items()]
    click.echo(table.block(pairs))
    return None


def continual_text(document: dict[str, Any], width: int | None, *, colour: bool) -> str:
    """Verdict, table, R of the first strategies."""
    told = "the task is known at test" if document["scenario"] == "task" else "the task is not known at test"
    heading = (
        f"{document['stream']}: {document['tasks']} tasks, {document['scenario']}-incremental ({told}; outputs that "
        f"compete: {document['active']}) · {document['split']} · {len(document['seeds'])} seeds · metrics as "
        f"{document['metrics_as']}"
    )
    parts = [document["verdict"], heading, _rows(document, width)]
    parts += [_matrix(row, colour) for row in document["rows"][:MATRICES]]
    return "\n\n".join(parts)


def _rows(document: dict[str, Any], width: int | None) -> str:
    columns = [
        table.Column("strategy"), table.Column("ACC", right=True), table.Column("F", right=True),
        table.Column("BWT", right=True, drop=5), table.Column("learned", right=True),
        table.Column("to naive", right=True), table.Column("95 %", right=True, drop=2),
        table.Column("p", right=True, drop=4), table.Column("gap closed", right=True, drop=3),
        table.Column("memory", right=True), table.Column("s/seed", right=True, drop=6),
    ]  # fmt: skip
    rows = []
    for row in document["rows"]:
        apart = row["to_naive"]
        memory = row["memory"]["state"] + row["memory"]["buffer"]
        rows.append([
            row["label"] + (" (told the task)" if row["sees_task_id"] and document["scenario"] != "task" else ""),
            shown.plus_minus(row["acc"], "acc"),
            *(shown.metric(shown.dig(row, key, "mean"), "acc") for key in ("forgetting", "bwt", "learning_accuracy")),
            shown.difference(apart["mean"], "acc") if apart else "",
            shown.interval(apart["low"], apart["high"], "acc", signed=True) if apart else "",
            shown.number(apart["p"]) if apart and apart["p"] is not None else "",
            "" if row["gap_closed"] is None else f"{100 * row['gap_closed']:.0f} %",
            shown.size(memory) if memory else "0 B", f"{row['seconds']:.1f}",
        ])  # fmt: skip
    text, dropped = table.render(columns, rows, width=width)
    notes = "± 95 % t interval over the seeds; differences to naive are paired, in points"
    return text + f"\n{notes}" + (f"; left out for width: {', '.join(dropped)}" if dropped else "")


def _matrix(row: dict[str, Any], colour: bool) -> str:
    """R in per cent, a row after each trained task; shaded on a terminal."""
    lines = [f"R of {row['label']}, % on task (column) after training task (row)"]
    for number, values in enumerate(row["R"], 1):
        lines.append(f"{number:4d} " + "".join(_cell(value, colour) for value in values))
    return "\n".join(lines)


def _cell(value: float, colour: bool) -> str:
    text = f"{100 * value:4.0f} "
    if not colour:
        return text
    shade = min(int(value * len(SHADES)), len(SHADES) - 1)
    ink = 15 if shade < len(SHADES) // 2 else 0
    return f"\x1b[48;5;{SHADES[shade]};38;5;{ink}m{text}\x1b[0m"
