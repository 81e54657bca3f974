"""Recipes: TOML files, one per experiment that we quote; ``baselines.config`` says what they hold. Imports no torch."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from baselines.part import PARTS, Part
from neurons.errors import UsageError, nearest

RECIPES = Path(__file__).parent / "recipes"
KEYS = ("description", "task", "trainer", "models", "rules", "compare")
COMPARE_KEYS = ("seeds", "rows")


def recipes() -> dict[str, Path]:
    """Shipped recipes by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}


def read_recipe(name_or_path: str) -> tuple[dict[str, Any], str]:
    """A recipe and the origin to print for its values."""
    shipped = recipes()
    if name_or_path in shipped:
        path, origin = shipped[name_or_path], f"recipe {name_or_path}"
    else:
        path, origin = Path(name_or_path), f"file {name_or_path}"
        if not path.is_file():
            raise UsageError(
                f"no recipe '{name_or_path}'.{nearest(name_or_path, shipped)} Shipped: {', '.join(shipped)}"
            )
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {path}: {error}") from error
    for key in document:
        if key not in KEYS:
            raise UsageError(
                f"recipe {path} has an unknown key '{key}'.{nearest(key, KEYS)} It takes: {', '.join(KEYS)}"
            )
    for key in document.get("compare", {}):
        if key not in COMPARE_KEYS:
            near = nearest(key, COMPARE_KEYS)
            raise UsageError(f"recipe {path}: [compare] has no '{key}'.{near} It takes: {', '.join(COMPARE_KEYS)}")
    for kind in ("model", "rule"):
        for name, table in document.get(f"{kind}s", {}).items():
            _check_table(kind, name, table, origin)
    return document, origin


def _check_table(kind: str, name: str, table: Any, origin: str) -> None:
    """The table of a model or a rule must name one, and set only what its name has not."""
    part, here = Part.parse(kind, name), f'{origin}: [{kind}s."{name}"]'
    entry = PARTS[kind].entry(part.name)
    if not isinstance(table, dict):
        raise UsageError(f"{here} must be a table of options, not {table!r}")
    fixed = {*part.options, *(entry.ablations[part.ablation] if part.ablation else ())}
    for key, value in table.items():
        if key in fixed:
            raise UsageError(f"{here} sets '{key}', which its name has set. Leave one of the two out")
        if isinstance(value, dict) and key != "trainer":
            hint = f' A preset has a table of its own: [{kind}s."{part.name}:{key}"]' if key in entry.presets else ""
            raise UsageError(f"{here}: '{key}' is a table, and an option is a plain value.{hint}")


def tables(document: dict[str, Any], kind: str, part: Part) -> list[tuple[Part, dict[str, Any], dict[str, Any]]]:
    """What a recipe says of ``part``, as (name, options, trainer options), the shortest name first."""
    found = []
    for name, table in document.get(f"{kind}s", {}).items():
        key = Part.parse(kind, name)
        if key.covers(part):
            options = {option: value for option, value in table.items() if option != "trainer"}
            found.append((key, options, table.get("trainer", {})))
    return sorted(found, key=lambda one: one[0].rank)
