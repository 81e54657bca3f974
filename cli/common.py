"""What the commands share: options, the JSON document, run directories, names of kinds. Imports no torch."""

from __future__ import annotations

import functools
import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from neurons.errors import RunError, UsageError, nearest
from neurons.registry import REGISTRIES, Registry

F = TypeVar("F", bound=Callable[..., Any])
SCHEMA = 1

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
dry_run = click.option(
    "--dry-run", is_flag=True, help="Resolve and print everything, with the origin of each value; run nothing."
)


blind_beyond = click.option(
    "--blind-beyond", type=click.IntRange(min=1), metavar="K",
    help="Receptive-field ablation: the model sees windows of K tokens, each by itself.",
)  # fmt: skip


def debug(function: F) -> F:
    """``--debug`` after the subcommand; the root group reads it."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")(function)


def run_options(function: F) -> F:
    """The options that train and compare share."""
    options = [
        click.option("--task", help="Task to learn (neurons list tasks)."),
        click.option(
            "--set", "sets", multiple=True, metavar="A.B=C",
            help="Set one option, as model.width=64, trainer.lr=1e-3 or task.max_length=32. Repeatable.",
        ),
        click.option("--steps", type=click.IntRange(min=1), help="Training steps."),
        click.option(
            "--minutes", type=click.FloatRange(min=0, min_open=True),
            help="Training time instead of steps: calibrated once, before step 0.",
        ),
        click.option("--device", help="auto, cpu, cuda or mps.  [default: auto]"),
        click.option(
            "--precision", type=click.Choice(["float32", "bf16"]), help="bf16 is autocast.  [default: float32]"
        ),
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads."),
        blind_beyond,
        click.option("--data-dir", help="Folder with local data sets.  [env: NEURONS_DATA_DIR]"),
        click.option("--out", type=click.Path(path_type=Path), help="Where to write; never an existing run."),
        click.option(
            "--resume", metavar="auto|PATH",
            help="Go on with an interrupted run; 'auto' finds it: --out, or the newest of this configuration.",
        ),
    ]  # fmt: skip
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), function)


def emit(kind: str, document: dict[str, Any]) -> None:
    """One strict JSON document on stdout, with ``schema`` and ``kind``; what is not finite becomes null."""
    click.echo(json.dumps(_finite({"schema": SCHEMA, "kind": kind} | document), indent=2, allow_nan=False))


def log(message: str) -> None:
    """A line for the user that is not the result."""
    click.echo(message, err=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def kinds() -> dict[str, Registry]:
    """Every registry by its plural name."""
    for package in ("neurons", "learning", "tasks", "baselines"):
        importlib.import_module(package)  # which creates its registries
    return dict(sorted(REGISTRIES.items()))


def registry(kind: str) -> Registry:
    """The registry of ``kind``, in the singular or the plural."""
    found = kinds()
    wanted = kind.lower().replace("_", "-")
    for plural, candidate in found.items():
        if wanted in (plural, candidate.kind):
            return candidate
    known = [*found, *(candidate.kind for candidate in found.values())]
    raise UsageError(f"unknown kind '{kind}'.{nearest(wanted, known)} Try: neurons list")


def comma_list(text: str | None) -> list[str]:
    return [item.strip() for item in (text or "").split(",") if item.strip()]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; RunError in one line when it is damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged ({error})") from error
    if not isinstance(document, dict):
        raise RunError(f"{path} is damaged (no JSON object)")
    return document


def run_directory(path: Path) -> Path:
    """``path`` if it holds a run; else a UsageError that names the nearest sibling."""
    if (path / "config.json").is_file():
        return path
    siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    raise UsageError(f"no run at '{path}'.{nearest(path.name, siblings)} Try: neurons runs list")
