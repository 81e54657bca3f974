"""``neurons lra``: the Long Range Arena, one comparison per task, one table beside the published rows."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from baselines import report_format as shown
from cli import common, table
from cli.comparison import comparison_text
from neurons.errors import DataError, RunError, UsageError


@click.command()
@click.argument("task", metavar="TASK|all")
@click.option("--short", is_flag=True, help="Short forms of the tasks, which have names of their own.")
@click.option("--models", metavar="A,B", help="Models, with options if need be.  [default: the recipes']")
@click.option("--rules", metavar="A,B", help="Rules.  [default: the recipes']")
@click.option("--seeds", type=click.IntRange(min=1), help="How many seeds.  [default: the recipes']")
@click.option("--steps", type=click.IntRange(min=1), help="Training steps.  [default: the recipes']")
@click.option(
    "--match",
    type=click.Choice(["steps", "params", "flops", "time"]),
    default="params",
    show_default=True,
    help="What is made equal for every row.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at the same time.")
@click.option("--device", help="auto, cpu, cuda or mps.  [default: auto]")
@click.option("--precision", type=click.Choice(["float32", "bf16"]), help="bf16 is autocast.  [default: float32]")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
@common.blind_beyond
@click.option("--data-dir", help="Folder with local data sets.  [env: NEURONS_DATA_DIR]")
@click.option(
    "--out", type=click.Path(path_type=Path), help="A folder for the suite.  [default: runs/lra or runs/lra-short]"
)
@common.dry_run
@common.as_json
@common.debug
def command(task: str, short: bool, out: Path | None, dry_run: bool, as_json: bool, **flags: Any) -> None:
    """Train the models of one task of Long Range Arena, or of all, and print them beside the published rows.

    TASK is listops, text, retrieval, image, pathfinder, pathx or all. Every task is a comparison of its own with its
    report, under --out. What is finished there is kept: the same command goes on where it stopped. lra.json and
    lra.html hold the table over all tasks that the folder has.

    \b
    Examples:
      neurons lra all --short --jobs 2
      neurons lra listops --models neuronsv2,transformer --seeds 3
      neurons lra all --dry-run
    """
    from baselines import arena
    from baselines.config import resolve_grid

    place = out or Path("runs") / ("lra-short" if short else "lra")
    _finished(place, short)  # before anything is trained
    chosen = arena.suite(task, short=short)
    run = {key: flags.pop(key) for key in ("steps", "device", "precision", "threads", "blind_beyond", "data_dir")}
    grids = {
        name: resolve_grid(
            recipe=recipe, models=common.comma_list(flags["models"]), rules=common.comma_list(flags["rules"]),
            seeds=flags["seeds"], **run,
        )
        for name, recipe in chosen.items()
    }  # fmt: skip
    if dry_run:
        _planned(grids, chosen, as_json)
        return
    from baselines.compare import compare
    from baselines.report_arena import write

    typed = shlex.join(["neurons", *(click.get_current_context().obj or [])])
    missing: dict[str, str] = {}
    for name, grid in grids.items():
        common.log(f"{name}: {len(grid.runs)} runs in {place / name}")
        try:
            one = compare(
                grid, out=place / name, match=flags["match"], jobs=flags["jobs"],
                resume=(place / name / "budget.json").is_file(), progress=True, command=typed,
            )  # fmt: skip
        except DataError as error:
            if len(grids) == 1:
                raise
            missing[name] = str(error)
            common.log(f"{name}: left out. {error}")
            continue
        if not as_json:
            common.log(comparison_text(one, table.terminal_width()) + "\n")
    documents = _finished(place, short)
    if not documents:
        raise UsageError("no task of the arena could be run: " + "; ".join(missing.values()))
    document = arena.table(documents, short=short) | {"left_out": missing, "command": typed}
    write(document, place)
    if as_json:
        common.emit("lra", document)
    else:
        click.echo(arena_text(document, table.terminal_width()))
        click.echo(f"\nreport  {place / 'lra.html'}")
    for name in grids:
        for row in documents.get(name, {"rows": []})["rows"]:
            if row.get("failed"):
                raise RunError(f"runs failed: {name}, {row['label']}: {row['failed']}")


def _finished(place: Path, short: bool) -> dict[str, dict[str, Any]]:
    """The comparisons in ``place``, by task; UsageError where one is of the other suite: one table shows one kind."""
    from baselines import arena

    recipes = arena.suite("all", short=short)
    paths = {name: place / name / "compare.json" for name in arena.COLUMNS}
    documents = {name: common.read_json(path) for name, path in paths.items() if path.is_file()}
    for name, document in documents.items():
        if document.get("recipe") != recipes.get(name):
            kind = "a short form" if short else "the task itself"
            raise UsageError(f"'{place / name}' holds '{document.get('recipe')}', not {kind}. Choose another --out")
    return documents


def _planned(grids: dict[str, Any], recipes: dict[str, str], as_json: bool) -> None:
    rows = [
        {
            "task": name, "recipe": recipes[name], "labels": grid.labels, "seeds": list(grid.seeds),
            "steps": grid.runs[0].config["trainer"]["steps"], "runs": len(grid.runs),
        }
        for name, grid in grids.items()
    ]  # fmt: skip
    if as_json:
        return common.emit("lra-plan", {"tasks": rows})
    columns = [
        table.Column("task"), table.Column("recipe"), table.Column("runs", right=True),
        table.Column("steps", right=True), table.Column("rows"),
    ]  # fmt: skip
    cells = [
        [row["task"], row["recipe"], str(row["runs"]), f"{row['steps']:,}", ", ".join(row["labels"])] for row in rows
    ]
    click.echo(table.render(columns, cells, width=table.terminal_width())[0])
    click.echo("\nEvery value of one of them: neurons compare RECIPE --dry-run")
    return None


def arena_text(document: dict[str, Any], width: int | None) -> str:
    """The verdict, our rows, the best trivial reader, then the published rows with what differs in their protocol."""
    tasks = list(document["tasks"])
    columns = [table.Column("model / rule"), *(table.Column(task, right=True) for task in tasks)]
    columns.append(table.Column("average", right=True, drop=1))
    rows: list[list[str] | None] = [
        [
            row["label"],
            *(shown.plus_minus(row["values"].get(task), "accuracy") for task in tasks),
            shown.metric(row["average"], "accuracy"),
        ]
        for row in document["rows"]
    ]
    floors = document["floors"]
    rows += [None, ["best trivial reader", *(shown.metric(_floor(floors, t), "accuracy") for t in tasks), ""]]
    told = []
    if document["published"]:
        rows.append(None)
        for one in document["published"]:
            known = [shown.finite(one["accuracy"].get(task)) for task in tasks]
            cells = [shown.NOTHING if value is None else f"{value:.1f} %" for value in known]
            rows.append([one["label"], *cells, ""])
            told.append(f"{one['label']}: {one['protocol']}.")
    names = ", ".join(f"{task} {floors[task]['name']}" for task in tasks if floors[task])
    told.append(f"Trivial readers: {names}.")
    if document["short"]:
        told.append("Short forms of the tasks: no published row applies to them.")
    told += [f"warning: {text}" for text in document["warnings"]]
    text, _ = table.render(columns, rows, width=width)
    return "\n\n".join([document["verdict"] + ".", text, "\n".join(told)])


def _floor(floors: dict[str, Any], task: str) -> Any:
    return shown.dig(floors, task, "value")
