"""``python -m baselines.readme_table``: what results/ holds, in short into README.md and in full into docs/results.md.

``--check`` says whether both are current.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from baselines import report_format as fmt
from baselines.report_table import components_table, markdown, markdown_table
from neurons.errors import DataError, NeuronsError, UsageError

START, END = "<!-- results:start -->", "<!-- results:end -->"
FULL = "docs/results.md"
HEAD = """# Results

Means over seeds with 95 % t intervals; the test split was read once per run. Written by `make table` from
`results/`, where the JSON of every comparison has its environment, its curves and the values of each seed.
"""


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


def _components(results: Path) -> list[tuple[str, dict]]:
    """(task, document) of every ``ablations/*.json``, in the order of their names."""
    found = []
    for path in sorted(results.glob("ablations/*.json")):
        compare = _read(path)
        if not isinstance(compare, dict) or compare.get("kind") != "compare" or not compare.get("ablations"):
            raise DataError(f"{path} takes no model apart. Write it again with: neurons compare --ablate")
        found.append((path.stem, compare))
    return found


def _streams(results: Path) -> list[tuple[str, dict]]:
    """(name, document) of every ``continual/*.json``, in the order of their names."""
    found = [(path.stem, _read(path)) for path in sorted(results.glob("continual/*.json"))]
    return [(name, one) for name, one in found if isinstance(one, dict) and one.get("kind") == "continual"]


def _forgetting(streams: list[tuple[str, dict]]) -> str:
    """What every learner of every stream knows at the end and has forgotten, and the bytes it remembers by."""
    lines = [["stream", "scenario", "learner or strategy", "accuracy", "forgetting", "state and buffer", "n"]]
    lines += [["---", "---", "---", "---:", "---:", "---:", "---:"]]
    for _, one in streams:
        for row in one["rows"]:
            kept = row["memory"]["state"] + row["memory"]["buffer"]
            told = " *(told the task)*" if row.get("sees_task_id") else ""
            values = [fmt.plus_minus(row[key], "accuracy") for key in ("acc", "forgetting")]
            name = row["label"] + told
            lines.append([one["stream"], one["scenario"], name, *values, fmt.size(kept), str(len(one["seeds"]))])
    return markdown(lines)


def _arenas(results: Path) -> list[str]:
    """A table per ``*/lra.json``: models down, tasks across."""
    blocks = []
    for path in sorted(results.glob("*/lra.json")):
        document = _read(path)
        tasks = document["tasks"]
        lines = [["model / rule", *(task["name"] for task in tasks.values()), "average"]]
        lines += [["---", *["---:"] * (len(tasks) + 1)]]
        lines += [
            [
                row["label"],
                *(fmt.plus_minus(row["values"].get(task), "accuracy") for task in tasks),
                fmt.metric(row["average"], "accuracy"),
            ]
            for row in document["rows"]
        ]
        floors = [document["floors"].get(task) for task in tasks]
        told = [f"{fmt.metric(one['value'], 'accuracy')} {one['name']}" if one else fmt.NOTHING for one in floors]
        lines.append(["*best trivial reader*", *told, ""])
        blocks += [f"### {path.parent.name}", f"{document['verdict']}.", markdown(lines), f"`{document['command']}`"]
    return blocks


def summary(results: Path) -> str:
    """What stands between the README's two markers: the verdict of every comparison, beside the best trivial reader."""
    lines = [["comparison", "what it says", "best floor"], ["---", "---", "---"]]
    for name, compare in comparisons(results):
        floors, metric = compare.get("floors") or {}, str(fmt.dig(compare, "primary", "name"))
        best = (max if fmt.dig(compare, "primary", "higher_is_better") is not False else min)(
            floors, key=lambda one: floors[one], default=None
        )
        told = "" if best is None else f"{best} {fmt.metric(floors[best], metric)}"
        lines.append([f"[{name}]({FULL}#{name})", str(compare.get("verdict") or ""), told])
    lines += [
        [f"[{name}]({FULL}#streams)", f"On {one['stream']}, {one['verdict']}", ""] for name, one in _streams(results)
    ]
    apart = [["task", "what each component is worth"], ["---", "---"]]
    apart += [
        [f"[{name}]({FULL}#{name}-taken-apart)", f"{compare['ablations']['verdict']}."]
        for name, compare in _components(results)
    ]
    blocks = [markdown(lines)] if len(lines) > 2 else []
    blocks += _arenas(results)
    blocks += [markdown(apart)] if len(apart) > 2 else []
    return "\n\n".join(blocks) or "No results yet: `neurons compare` writes them."


def full(results: Path) -> str:
    """The whole of docs/results.md."""
    blocks = []
    for name, compare in comparisons(results):
        task = compare.get("task") or {}
        facts = [f"split `{task['split_hash']}`"] if task.get("split_hash") else []
        facts += [f"data: {task['data_source']}"] if task.get("data_source") else []
        command = f"`{compare['command']}`" if compare.get("command") else ""
        blocks += [
            f"## {name}",
            str(compare.get("verdict") or ""),
            markdown_table(compare),
            ", ".join([command, *facts] if command else facts),
            *(f"> Warning: {' '.join(str(text).split())}" for text in compare.get("warnings") or []),
        ]
    for name, compare in _components(results):
        seeds = len(compare.get("seeds") or [])
        command = f"`{compare['command']}`, " if compare.get("command") else ""
        blocks += [
            f"## {name}, taken apart",
            "The full model minus the same model without one component, trained alike: paired by seed, on test. "
            f"{compare['ablations']['verdict']}.",
            components_table(compare),
            f"{command}{seeds} seed{'s' if seeds != 1 else ''}",
        ]
    if streams := _streams(results):
        blocks += ["## Streams", "Accuracy over all tasks after the last one.", _forgetting(streams)]
    return "\n\n".join([HEAD.strip(), *(block for block in blocks if block)]) + "\n"


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
        new = rewrite(old, summary(options.root / "results"))
        wanted = {readme: new, options.root / FULL: full(options.root / "results")}
    except NeuronsError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if options.check and stale:
        print(f"{stale[0].name} is not current. Run: python -m baselines.readme_table", file=sys.stderr)
        return 1
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
