"""``neurons runs``: the run directories below a folder."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from baselines import report_format as shown
from cli import common, table
from neurons.errors import RunError, UsageError


@dataclass(frozen=True)
class Found:
    """One run directory; ``value`` is its primary metric, ``age`` the seconds since it was last written."""

    path: str
    status: str
    task: str
    model: str
    rule: str
    seed: int | None
    value: float | None
    metric: str
    age: float


def scan(root: Path) -> list[Found]:
    """Every run below ``root``, the newest first."""
    found = [_read(path.parent) for path in root.rglob("config.json")]
    return sorted(found, key=lambda run: run.age)


def _read(path: Path) -> Found:
    from learning.run import RunDirectory

    age = 0.0
    try:
        age = max(time.time() - max(entry.stat().st_mtime for entry in path.iterdir()), 0.0)
        config = common.read_json(path / "config.json")
        task, model, rule = (str(config.get(part, {}).get("name", "?")) for part in ("task", "model", "rule"))
        run = RunDirectory(path)
        status, primary = run.status, (run.result or {}).get("primary", {})
    except (RunError, OSError, AttributeError, TypeError):  # somebody else's config.json has another shape
        return Found(str(path), "damaged", "?", "?", "?", None, None, "", age)
    return Found(
        str(path), status, task, model, rule, config.get("seed"), primary.get("value"), primary.get("name", ""), age
    )


@click.group()
def command() -> None:
    """List the runs below a folder, or show one.

    \b
    Example:
      neurons runs list
    """


@command.command("list")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("runs"))
@common.as_json
@common.debug
def list_runs(folder: Path, as_json: bool) -> None:
    """List the runs below FOLDER (runs), the newest first.

    \b
    Example:
      neurons runs list runs/digits
    """
    if not folder.is_dir() and folder != Path("runs"):
        raise UsageError(f"no folder '{folder}'")
    found = scan(folder) if folder.is_dir() else []
    if as_json:
        return common.emit("runs", {"runs": [asdict(run) for run in found]})
    if not found:
        common.log(f"no runs below '{folder}'. Try: neurons train --task digits --model mlp --rule backprop")
        return None
    columns = [
        table.Column("run"), table.Column("status"), table.Column("task", drop=2), table.Column("model", drop=3),
        table.Column("rule", drop=4), table.Column("seed", right=True, drop=1), table.Column("value", right=True),
        table.Column("metric", drop=5), table.Column("age", right=True),
    ]  # fmt: skip
    rows = [
        [
            run.path, run.status, run.task, run.model, run.rule, "" if run.seed is None else str(run.seed),
            shown.metric(run.value, run.metric) if run.metric else "", run.metric, shown.seconds(run.age),
        ]
        for run in found
    ]  # fmt: skip
    click.echo(table.render(columns, rows, width=table.terminal_width())[0])


@command.command("show")
@click.argument("run", type=click.Path(path_type=Path))
@common.as_json
@common.debug
def show_run(run: Path, as_json: bool) -> None:
    """Show the configuration and the result of RUN.

    \b
    Example:
      neurons runs show runs/digits/mlp-backprop-s0
    """
    path = common.run_directory(run)
    config = common.read_json(path / "config.json")
    result = common.read_json(path / "result.json") if (path / "result.json").is_file() else None
    if as_json:
        return common.emit("run", {"run": str(path), "config": config, "result": result})
    from cli.train import describe_result
    from learning.run import RunDirectory

    pairs = [(key, str(value)) for key, value in flat(config).items() if key != "schema"]
    if result is None or result.get("status") == "failed":
        told = [("run", str(path)), ("status", RunDirectory(path).status), ("error", (result or {}).get("error", ""))]
        click.echo(table.block([(key, value) for key, value in told if value]))
    else:
        click.echo(describe_result(result, path))
    click.echo("\nconfiguration\n" + table.block(pairs))
    return None


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots, ``options`` left out of the path, as ``--set`` spells them."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        inner = prefix if key == "options" else f"{prefix}.{key}".lstrip(".")
        leaves |= flat(value, inner) if isinstance(value, dict) else {inner: value}
    return leaves
