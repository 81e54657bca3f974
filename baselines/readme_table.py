"""``python -m baselines.readme_table``: README.md's results from results/; ``--check`` that they are current."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from baselines.report_table import components_table, markdown_table
from neurons.errors import DataError, NeuronsError, UsageError

START, END = "<!-- results:start -->", "<!-- results:end -->"


def comparisons(results: Path) -> list[tuple[str, dict]]:
    """(name, document) of every ``*/compare.json`` and every ``*.json`` of kind compare, sorted by name."""
    found = []
    for path in [*results.glob("*.json"), *results.glob("*/compare.json")]:
        document = _read(path)
        if isinstance(document, dict) and document.get("kind") == "compare":
            found.append(
                (path.parent.name if path.name == "compare.json" and path.parent != results else path.stem, document)
            )
        elif path.name == "compare.json":
            raise DataError(f"{path} is no comparison (kind is not 'compare'). Write it again with: neurons compare")
    return sorted(found, key=lambda pair: pair[0])


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not a JSON document: {error}. Write it again with: neurons compare") from error


def _taken_apart(results: Path) -> list[str]:
    """What ``ablations/*.json`` say of each component, a block per file in the order of their names."""
    blocks = []
    for path in sorted(results.glob("ablations/*.json")):
        compare = _read(path)
        if not isinstance(compare, dict) or compare.get("kind") != "compare" or not compare.get("ablations"):
            raise DataError(f"{path} takes no model apart. Write it again with: neurons compare --ablate")
        seeds = len(compare.get("seeds") or [])
        command = f"`{compare['command']}`, " if compare.get("command") else ""
        told = [f"#### {path.stem}", f"{compare['ablations']['verdict']}.", components_table(compare)]
        blocks += [*told, f"{command}{seeds} seed{'s' if seeds != 1 else ''}"]
    if not blocks:
        return []
    how = "The full model minus the same model without one component, trained alike: paired by seed, on the test split."
    return ["### What each component is worth", how, *blocks]


def section(results: Path) -> str:
    """What stands between the two markers."""
    blocks = []
    for name, compare in comparisons(results):
        task = compare.get("task") or {}
        facts = [f"split `{task['split_hash']}`"] if task.get("split_hash") else []
        facts += [f"data: {task['data_source']}"] if task.get("data_source") else []
        command = f"`{compare['command']}`" if compare.get("command") else ""
        blocks += [
            f"### {name}",
            str(compare.get("verdict") or ""),
            markdown_table(compare),
            ", ".join([command, *facts] if command else facts),
            *(f"> Warning: {' '.join(str(text).split())}" for text in compare.get("warnings") or []),
        ]
    blocks += _taken_apart(results)
    return "\n\n".join(block for block in blocks if block) or "No results yet: `neurons compare` writes them."


def rewrite(readme: str, body: str) -> str:
    """``readme`` with ``body`` between its markers; UsageError unless each stands there once and in order."""
    if readme.count(START) != 1 or readme.count(END) != 1 or readme.index(START) > readme.index(END):
        raise UsageError(f"README.md needs one line {START} and after it one line {END}.")
    before, rest = readme.split(START)
    return f"{before}{START}\n{body}\n{END}{rest.split(END)[1]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 current or written, 1 ``--check`` found a difference, 2 or 4 on an error."""
    parser = argparse.ArgumentParser(prog="python -m baselines.readme_table", description="Results into README.md.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when README.md is not current")
    parser.add_argument("--root", type=Path, default=Path(), help="the folder of README.md and results/")
    options = parser.parse_args(arguments)
    readme = options.root / "README.md"
    try:
        if not readme.is_file():
            raise UsageError(f"no {readme}. Run this in the project's folder, or name it by --root.")
        old = readme.read_text(encoding="utf-8")
        new = rewrite(old, section(options.root / "results"))
    except NeuronsError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    if options.check and new != old:
        print("README.md is not current. Run: python -m baselines.readme_table", file=sys.stderr)
        return 1
    if new != old:
        readme.write_text(new, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
