"""The command of a measurement that trains nothing: seeds in, one JSON document and one table out."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from learning.environment import environment
from learning.files import json_text, write_atomic

Rows = list[dict[str, Any]]


def command(
    description: str, *, kind: str, what: str, out: str, measure: Callable[[int], Rows], table: Callable[[Rows], str]
) -> None:
    """Measure with ``--seeds`` seeds, at least two; write ``--out``, results/``out`` by default; print the table."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("results") / out)
    asked = parser.parse_args()
    rows = measure(max(2, asked.seeds))
    document = {"schema": 1, "kind": kind, "what": what, "rows": rows, "env": environment()}
    write_atomic(asked.out, (json_text(document, indent=1) + "\n").encode())
    print(table(rows))
