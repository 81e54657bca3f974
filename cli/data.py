"""``neurons data``: where the data sets are, whether they are the ones measured with, how to get them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from baselines.part import scalar
from cli import common, table
from neurons.errors import DataError, UsageError

if TYPE_CHECKING:
    from tasks.data import Source

F = TypeVar("F", bound=Callable[..., Any])


def _data_dir(function: F) -> F:
    return click.option("--data-dir", help="Folder with local data sets.  [env: NEURONS_DATA_DIR]")(function)


def sources() -> dict[str, Source | None]:
    """The data set of every task; None where the task makes its own data."""
    from tasks import TASKS

    return {name: getattr(TASKS.get(name), "data", None) for name in TASKS.names()}


def _source(task: str) -> Source | None:
    from tasks import TASKS

    TASKS.entry(task)
    own = getattr(TASKS.get(task), "own_folder", None)
    if own is not None:
        raise DataError(
            f"task '{task}' reads your own copy, in the folder '{own}' of the data root: its texts cannot be passed on."
            f" Try: neurons show task {task}"
        )
    return sources()[task]


def _row(task: str, source: Source | None, data_dir: str | None, *, read: bool = False) -> dict[str, Any]:
    from tasks import TASKS
    from tasks.data import data_root, describe

    own = None if source is not None else getattr(TASKS.get(task), "own_folder", None)
    if own is not None:  # the user's copy of what may not be passed on
        place = (data_root(data_dir) or Path()) / own
        found = str(place) if data_root(data_dir) is not None and place.is_dir() else None
        return {"task": task, "built_in": False, "path": found, "folder": own, "config": "", "hub": "your own copy"}
    return {"task": task, "built_in": source is None} | (
        {} if source is None else describe(source, data_dir, read=read)
    )


@click.group()
def command() -> None:
    """List, locate, fetch, verify or generate data sets.

    A data set is looked for in --data-dir or NEURONS_DATA_DIR, then on the hub. Generated and tokenised data is kept in
    NEURONS_CACHE.

    \b
    Example:
      neurons data list
    """


@command.command("list")
@_data_dir
@common.as_json
@common.debug
def list_data(data_dir: str | None, as_json: bool) -> None:
    """List every task with the data set it reads and where that was found.

    \b
    Example:
      neurons data list --data-dir data
    """
    rows = [_row(task, source, data_dir) for task, source in sources().items()]
    if as_json:
        return common.emit("data", {"data": rows})
    columns = [table.Column("task"), table.Column("found"), table.Column("folder", drop=2), table.Column("hub", drop=1)]
    cells = [
        [row["task"], "built in", "", ""]
        if row["built_in"]
        else [row["task"], row["path"] or "not here", f"{row['folder']}/{row['config']}".rstrip("/"), row["hub"]]
        for row in rows
    ]
    click.echo(table.render(columns, cells, width=table.terminal_width())[0])
    return None


@command.command("path")
@click.argument("task", required=False)
@_data_dir
@common.as_json
@common.debug
def path(task: str | None, data_dir: str | None, as_json: bool) -> None:
    """Print the local folder of TASK's data set, or the data root and the cache.

    \b
    Example:
      neurons data path sst2
    """
    from tasks import TASKS
    from tasks.cache import cache_dir
    from tasks.data import data_root

    if task is None:
        root = data_root(data_dir)
        if as_json:
            return common.emit("data-path", {"root": root, "cache": cache_dir()})
        click.echo(table.block([("data", str(root or "not set (NEURONS_DATA_DIR)")), ("cache", str(cache_dir()))]))
        return None
    TASKS.entry(task)
    row = _row(task, sources()[task], data_dir)
    if row["built_in"]:
        raise UsageError(f"task '{task}' makes its own data and reads no folder. Try: neurons data generate {task}")
    if row["path"] is None:
        _source(task)  # of the user's own copy, which nothing can fetch, it has another word
        raise DataError(
            f"no folder '{row['folder']}' below {data_root(data_dir) or 'NEURONS_DATA_DIR (not set)'}."
            f" Try: neurons data fetch {task}"
        )
    if as_json:
        return common.emit("data-path", {"task": task, "path": row["path"]})
    click.echo(row["path"])
    return None


@command.command("fetch")
@click.argument("task")
@_data_dir
@common.as_json
@common.debug
def fetch(task: str, data_dir: str | None, as_json: bool) -> None:
    """Make sure TASK's data is on this machine: the local folder if it is there, else the hub.

    \b
    Example:
      neurons data fetch sst2
    """
    source = _source(task)
    if source is None:
        raise UsageError(f"task '{task}' makes its own data: nothing to fetch. Try: neurons data generate {task}")
    from tasks.data import load_rows

    common.log(f"reading {source.folder}/{source.config} or the hub's {source.hub}")
    rows, place = load_rows(source, data_dir, task=task)
    _print_splits(task, place, {split: len(part) for split, part in rows.items()}, as_json)


@command.command("verify")
@click.argument("tasks", metavar="[TASK]...", nargs=-1)
@_data_dir
@common.as_json
@common.debug
def verify(tasks: tuple[str, ...], data_dir: str | None, as_json: bool) -> None:
    """Read the local data of each TASK (all that are here) and compare it with the checksums measured with.

    Exit 4 if a data set is missing, malformed or another one.

    \b
    Example:
      neurons data verify sst2
    """
    named = {task: _source(task) for task in tasks}
    chosen = named or {task: source for task, source in sources().items() if source is not None}
    rows = [_row(task, source, data_dir, read=True) for task, source in chosen.items()]
    if not tasks:
        rows = [row for row in rows if row["path"] is not None]
    if as_json:
        common.emit("data-verify", {"data": rows})
    elif rows:
        columns = [table.Column("task"), table.Column("verdict"), table.Column("rows"), table.Column("path", drop=1)]
        cells = [[row["task"], _verdict(row), _counts(row.get("rows")), row.get("path") or ""] for row in rows]
        click.echo(table.render(columns, cells, width=table.terminal_width())[0])
    bad = [row["task"] for row in rows if _verdict(row) in ("missing", "differs")]
    if bad:
        raise DataError(f"{', '.join(bad)}: missing or not the data measured with. Try: neurons data fetch {bad[0]}")
    if not rows:
        raise DataError("no data set is here. Name their folder with --data-dir or NEURONS_DATA_DIR")


def _verdict(row: dict[str, Any]) -> str:
    if row["built_in"]:
        return "built in"
    if row["path"] is None:
        return "missing"
    return {True: "verified", False: "differs", None: "readable, no checksum recorded"}[row["verified"]]


def _counts(rows: dict[str, int] | None) -> str:
    return " ".join(f"{split} {count:,}" for split, count in (rows or {}).items())


@command.command("generate")
@click.argument("task")
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="A=B",
    help="Set one option of the task, as train=1000 or seed=3. Repeatable.",
)
@common.as_json
@common.debug
def generate(task: str, sets: tuple[str, ...], as_json: bool) -> None:
    """Make the data of a generated TASK now and keep it in NEURONS_CACHE, where training finds it.

    Pathfinder is made in pieces, in as many processes as there are cores: interrupted, it goes on where it stopped.

    \b
    Example:
      neurons data generate listops
      neurons data generate pathfinder32 --set difficulty=easy --set train=20000
    """
    if _source(task) is not None:
        raise UsageError(f"task '{task}' reads a data set and has no generator. Try: neurons data fetch {task}")
    from tasks import TASKS
    from tasks.cache import cache_dir

    built = TASKS.build(task, **_options(sets))
    common.log(f"making the data of '{task}'")
    start = time.perf_counter()
    made = built.load()
    seconds = time.perf_counter() - start
    counts = {"train": len(made.train), "held_out": len(made.held_out), "test": len(made.test)}
    told = {"seconds": round(seconds, 2), "cache": str(cache_dir()), "split_hash": made.split_hash}
    _print_splits(task, made.source, counts, as_json, **told)


def _options(sets: tuple[str, ...]) -> dict[str, Any]:
    """``train=64`` or ``task.train=64`` as an option and its value, which the registry checks."""
    found = {}
    for text in sets:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set takes option=value, such as train=1000, not '{text}'")
        found[name.strip().removeprefix("task.")] = scalar(value.strip())
    return found


def _print_splits(task: str, place: str, counts: dict[str, int], as_json: bool, **extra: Any) -> None:
    if as_json:
        return common.emit("data-ready", {"task": task, "source": place, "rows": counts} | extra)
    told = [(key.replace("_", " "), str(value)) for key, value in extra.items()]
    click.echo(table.block([("task", task), ("source", place), ("rows", _counts(counts)), *told]))
    return None
