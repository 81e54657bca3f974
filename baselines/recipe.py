"""Recipes: TOML files, one per experiment that we quote; ``baselines.config`` says what they hold."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

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
    return document, origin
