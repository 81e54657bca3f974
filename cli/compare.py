"""``neurons compare``: the main job, models x rules x seeds on one task at an equal budget."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from baselines import report_format as shown
from cli import common, table
from cli.comparison import comparison_text
from cli.runs import flat
from neurons.errors import RequirementError, RunError, UsageError

if TYPE_CHECKING:
    from baselines.config import Grid


@click.command()
@click.argument("recipes", metavar="[RECIPE]...", nargs=-1)
@click.option("--models", metavar="A,B", help="Models, with options if need be: mlp,neuronsv2:width=64.")
@click.option("--rules", metavar="A,B", help="Rules: backprop,predictive-coding:variant=zil.")
@click.option("--seeds", metavar="N|0,1,2", help="How many seeds, or which.  [default: the recipe's, else 3]")
@click.option(
    "--match",
    type=click.Choice(["steps", "params", "flops", "time"]),
    default="steps",
    show_default=True,
    help="What is made equal for every row.",
)
@click.option(
    "--require", multiple=True, metavar='"A>B"',
    help="Exit 3 unless the whole interval of the paired difference says that A is better. Repeatable.",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at the same time.")
@click.option("--ablate", is_flag=True, help="Take the first model apart: it, and it without each component.")
@click.option("--no-controls", is_flag=True, help="Leave out the exact-gradient controls of settling rules.")
@common.run_options
@common.dry_run
@common.as_json
@common.debug
def command(recipes: tuple[str, ...], dry_run: bool, as_json: bool, **flags: Any) -> None:
    """Train models x rules x seeds; print verdict and table.

    RECIPE is a shipped recipe (neurons list recipes) or a TOML file; flags win over it. Every run reads the test split
    once, at the end. compare.json and report.html go to --out. Finished runs are kept: after an interruption the same
    command with --resume auto does only what is left.

    \b
    Examples:
      neurons compare --task digits --models neuronsv2,transformer --rules backprop,predictive-coding --seeds 3
      neurons compare sst2 --require "neuronsv2 / backprop > transformer / backprop"
      neurons compare sst2 --ablate --seeds 3
    """
    if flags["minutes"] is not None and flags["steps"] is not None:
        raise UsageError("--steps and --minutes exclude each other")
    if flags["minutes"] is not None and flags["match"] != "time":
        raise UsageError("--minutes is a budget of time: add --match time, or use --steps")
    chosen: list[str | None] = list(recipes) or [None]
    out: Path | None = flags.pop("out")
    documents = []
    for recipe in chosen:
        below = out / Path(str(recipe)).stem if out is not None and len(chosen) > 1 else out
        documents.append(_one(recipe, below, dry_run=dry_run, as_json=as_json, **flags))
    if as_json:
        common.emit(documents[0]["kind"], documents[0]) if len(documents) == 1 else common.emit(
            "comparisons", {"comparisons": documents}
        )
    for document in documents:
        for one in document.get("requirements") or []:
            if not one["met"]:
                side = "lower" if document["primary"]["higher_is_better"] else "upper"
                bound = shown.difference(one["low" if side == "lower" else "high"], document["primary"]["name"])
                raise RequirementError(f"not met: {one['expression']} ({side} bound of the difference {bound})")
        failed = [f"{row['label']}: {row['failed']}" for row in document["rows"] if row.get("failed")]
        if failed:
            raise RunError(f"runs failed: {failed[0]}")


def _one(
    recipe: str | None, out: Path | None, *, task: str | None, models: str | None, rules: str | None, seeds: str | None,
    match: str, minutes: float | None, require: tuple[str, ...], jobs: int, ablate: bool, no_controls: bool,
    resume: str | None, dry_run: bool, as_json: bool, **run: Any,
) -> dict[str, Any]:  # fmt: skip
    from baselines.config import resolve_grid

    grid = resolve_grid(
        recipe=recipe, task=task, models=common.comma_list(models), rules=common.comma_list(rules),
        seeds=_seeds(seeds), controls=not no_controls, ablate=ablate, **run,
    )  # fmt: skip
    if grid.left_out:
        common.log(f"off in {grid.labels[0].split(' / ')[0]} already, not taken away: {', '.join(grid.left_out)}")
    if dry_run:
        return _plan(grid, match, as_json)
    from baselines.compare import compare

    place = _place(grid, out, resume, match, minutes)
    typed = shlex.join(["neurons", *(click.get_current_context().obj or [])])
    document = compare(
        grid, out=place, match=match, minutes=minutes, require=require, jobs=jobs, resume=resume is not None,
        progress=True, command=typed,
    )  # fmt: skip
    if not as_json:
        click.echo(comparison_text(document, table.terminal_width()))
        click.echo(f"\nreport  {place / 'report.html'}")
    return document


def _seeds(text: str | None) -> int | list[int] | None:
    """``3`` is a count, ``0,1,2`` (or ``7,``) names them."""
    if text is None:
        return None
    items = [item.strip() for item in text.split(",")]
    if not all(item.isdecimal() for item in items if item) or not any(items):
        raise UsageError(f"--seeds takes a count such as 3, or a list such as 0,1,2, not '{text}'")
    seeds = [int(item) for item in items if item]
    return seeds if "," in text else seeds[0]


def _place(grid: Grid, out: Path | None, resume: str | None, match: str, minutes: float | None) -> Path:
    """--out; with --resume its path, or the newest unfinished comparison of these runs; else the first free folder."""
    if resume not in (None, "auto"):
        if not (Path(str(resume)) / "budget.json").is_file():
            raise UsageError(f"no comparison to resume at '{resume}'. Leave --resume out to start one with --out")
        return Path(str(resume))
    if out is not None:
        return out
    base = Path("runs") / grid.runs[0].config["task"]["name"]
    if resume == "auto":
        from learning.run import identity

        asked = {"match": match, "minutes": minutes, "configs": [identity(run.config) for run in grid.runs]}
        begun = [path.parent for path in base.glob("*/budget.json") if not (path.parent / "compare.json").is_file()]
        for path in sorted(begun, key=lambda path: path.stat().st_mtime, reverse=True):
            if common.read_json(path / "budget.json").get("asked") == json.loads(json.dumps(asked)):
                return path
    number, place = 2, base / "compare"
    while place.exists():
        number, place = number + 1, base / f"compare-{number}"
    return place


def _plan(grid: Grid, match: str, as_json: bool) -> dict[str, Any]:
    """What the comparison would run, a row for each label; a rule that cannot train a model, or a component that it
    cannot be without, is told, not an error."""
    from baselines.part import ablated
    from baselines.plan import plan

    rows: list[dict[str, Any]] = []
    for label in grid.labels:
        first = next(run for run in grid.runs if run.label == label)
        row: dict[str, Any] = {"label": label, "control": first.control, "plan": None, "unsupported": None}
        try:
            row["plan"] = plan(first)
        except UsageError as error:
            if "cannot train" not in str(error) and ablated(label)[1] is None:
                raise
            row["unsupported"] = str(error)
        rows.append(row)
    document = {
        "kind": "compare-plan", "match": match, "seeds": list(grid.seeds), "recipe": grid.recipe,
        "left_out": list(grid.left_out), "rows": rows,
    }  # fmt: skip
    if not as_json:
        click.echo(_plan_text(document, len(grid.runs)))
    return document


def _plan_text(document: dict[str, Any], runs: int) -> str:
    from baselines.rows import full_models

    lacking = full_models([row["label"] for row in document["rows"]])
    columns = [
        table.Column("model / rule"), table.Column("steps", right=True), table.Column("parameters", right=True),
        table.Column("non-embedding", right=True, drop=1), table.Column("attention", right=True, drop=2),
        table.Column("memory", right=True, drop=3),
    ]  # fmt: skip
    rows, values = [], []
    for row in document["rows"]:
        label = row["label"] + (" (control)" if row["control"] else "")
        planned = row["plan"]
        if planned is None:
            rows.append([label, shown.NOTHING, *[""] * 4])
            values.append(f"{label}\n{row['unsupported']}")
            continue
        counts = planned["parameters"]
        numbers = [f"{counts[key]:,}" for key in ("total", "non_embedding", "attention")]
        rows.append([label, f"{planned['steps']:,}", *numbers, shown.size(planned["memory_bytes"])])
        given = [
            [f"  {key}", str(value), planned["origin"].get(key, "")] for key, value in flat(planned["config"]).items()
        ]
        if row["label"] in lacking:  # the rest is the full model's
            given = [line for line in given if line[2].startswith("without ")]
        titles = [table.Column("option"), table.Column("value"), table.Column("from")]
        values.append(label + "\n" + table.render(titles, given, width=table.terminal_width(), header=False)[0])
    seeds = ", ".join(map(str, document["seeds"]))
    heading = f"{runs} runs, seeds {seeds}, equal {document['match']}" + (
        "" if document["match"] == "steps" else " (widths and steps are matched when the comparison starts)"
    )
    return "\n\n".join([heading, table.render(columns, rows, width=table.terminal_width())[0], *values])
