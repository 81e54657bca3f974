"""Aligned text tables and blocks, fitted to the terminal."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

GAP = "  "
MINIMUM = 8  # no column of text is cut below this


@dataclass(frozen=True)
class Column:
    """``drop``: 0 = always shown; of the others the largest goes first when the table is too wide."""

    title: str
    right: bool = False
    drop: int = 0


def terminal_width() -> int | None:
    """Columns of the terminal (or of ``COLUMNS``); None when the output goes to a file or a pipe."""
    if os.environ.get("COLUMNS", "").isdigit() or sys.stdout.isatty():
        return max(shutil.get_terminal_size().columns, 20)
    return None


def clip(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    return text[: max(width - 1, 0)].rstrip() + "…"


def render(
    columns: Sequence[Column], rows: Sequence[Sequence[str] | None], *, width: int | None, header: bool = True
) -> tuple[str, list[str]]:
    """The table and the titles of the columns that had to go. A row that is None becomes a rule.

    Empty columns are left out. Too wide: columns with ``drop`` go, then the widest column of text is cut to fit.
    """
    cells = [row for row in rows if row is not None]
    kept = [i for i in range(len(columns)) if not cells or any(row[i] for row in cells)]
    titles = [column.title if header else "" for column in columns]
    sizes = [max([len(titles[i]), *(len(row[i]) for row in cells)]) for i in range(len(columns))]
    dropped: list[int] = []
    while width is not None and sum(sizes[i] for i in kept) + len(GAP) * (len(kept) - 1) > width:
        optional = [i for i in kept if columns[i].drop]
        if not optional:
            break
        dropped.append(max(optional, key=lambda i: columns[i].drop))
        kept.remove(dropped[-1])
    total = sum(sizes[i] for i in kept) + len(GAP) * (len(kept) - 1)
    texts = [i for i in kept if not columns[i].right]
    if width is not None and total > width and texts:
        widest = max(texts, key=lambda i: sizes[i])
        sizes[widest] = max(sizes[widest] - (total - width), MINIMUM)
        total = sum(sizes[i] for i in kept) + len(GAP) * (len(kept) - 1)

    def line(row: Sequence[str]) -> str:
        cut = {i: clip(row[i], sizes[i]) for i in kept}
        parts = [cut[i].rjust(sizes[i]) if columns[i].right else cut[i].ljust(sizes[i]) for i in kept]
        return GAP.join(parts).rstrip()

    lines = [line(titles)] if header else []
    lines += ["-" * total if row is None else line(row) for row in rows]
    return "\n".join(lines), [columns[i].title for i in sorted(dropped)]


def block(pairs: Sequence[tuple[str, str]]) -> str:
    """``name   value`` lines; a value of several lines keeps its indent."""
    size = max((len(name) for name, _ in pairs), default=0)
    indent = "\n" + " " * (size + len(GAP))
    return "\n".join((name.ljust(size) + GAP + value.replace("\n", indent)).rstrip() for name, value in pairs)
