"""``neurons fewshot``: one-pass fast weights, and what they are held against, on episodes of unmet characters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from baselines import report_format as shown
from cli import common, table


@click.command()
@click.option(
    "--data", default="digits", show_default=True,
    help="digits, omniglot (background set 1) or lake (the 20 one-shot runs, 20-way 1-shot).",
)  # fmt: skip
@click.option("--way", type=click.IntRange(min=2), help="Classes of an episode.  [default: 5; lake: 20]")
@click.option("--shot", type=click.IntRange(min=1), default=1, show_default=True, help="Pictures to learn from.")
@click.option("--queries", type=click.IntRange(min=1), default=5, show_default=True, help="Pictures asked, of a class.")
@click.option("--episodes", type=click.IntRange(min=1), default=10, show_default=True, help="Episodes of each seed.")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="How many seeds.")
@click.option("--readers", metavar="A,B", help="Which readers.  [default: all]")
@click.option("--data-dir", help="Folder with local data sets.  [env: NEURONS_DATA_DIR]")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the document here; overwritten.")
@common.as_json
@common.debug
def command(
    data: str, way: int | None, shot: int, queries: int, episodes: int, seeds: int, readers: str | None,
    data_dir: str | None, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Learn from a few pictures of unmet classes, name new ones; no meta-training.

    Every reader meets the same episodes; Lake's 20 runs are fixed, whatever --queries, --episodes and --seeds say.
    Intervals are 95 % t intervals over the episodes, differences to the
    nearest pixel prototype are paired. fast-weights-off is the ablation.

    \b
    Examples:
      neurons fewshot --way 10 --shot 5
      neurons fewshot --data lake
    """
    from baselines.fewshot import fewshot
    from baselines.setup import threads

    if out is not None:  # before the work, so that it is not lost
        out.parent.mkdir(parents=True, exist_ok=True)
    with threads(1):
        document = fewshot(
            data, way=way or (20 if data == "lake" else 5), shot=shot, queries=queries, count=episodes, seeds=seeds,
            readers=tuple(common.comma_list(readers)), data_dir=data_dir,
        )  # fmt: skip
    if out is not None:
        from learning.files import json_text, write_atomic

        write_atomic(out, (json_text({"schema": 1, "kind": "fewshot"} | document, indent=1) + "\n").encode())
    if as_json:
        return common.emit("fewshot", document)
    click.echo(fewshot_text(document, table.terminal_width()))
    if out is not None:
        click.echo(f"\nresults  {out}")
    return None


def fewshot_text(document: dict[str, Any], width: int | None) -> str:
    """Verdict, what was asked, table."""
    columns = [
        table.Column("reader"), table.Column("accuracy", right=True), table.Column("to floor", right=True),
        table.Column("95 %", right=True, drop=1),
    ]  # fmt: skip
    rows = []
    for row in document["rows"]:
        apart = row["to_floor"]
        rows.append([
            row["reader"], shown.plus_minus(row, "acc"),
            shown.difference(apart["mean"], "acc") if apart else "",
            shown.interval(apart["low"], apart["high"], "acc", signed=True) if apart else "",
        ])  # fmt: skip
    text, dropped = table.render(columns, rows, width=width)
    heading = (
        f"{document['data']}: {document['way']}-way {document['shot']}-shot · {document['episodes']} episodes, "
        f"{document['queries']} queries · no meta-training"
    )
    notes = "± 95 % t interval over the episodes; differences to the floor are paired, in points"
    left_out = f"; left out for width: {', '.join(dropped)}" if dropped else ""
    return f"{document['verdict']}\n\n{heading}\n\n{text}\n{notes}{left_out}"
