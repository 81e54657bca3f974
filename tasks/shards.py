"""A large generated set in pieces: each is made by a process of its own and kept as one cache file, so that a run that
was cut short goes on where it stopped."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial

import numpy as np

from tasks.cache import cache_dir, cached_arrays

_FEW = 4  # pieces that are not worth a process


def sharded(
    folder: str, make: Callable[[int], dict[str, np.ndarray]], *, count: int, size: int, processes: int | None = None
) -> dict[str, np.ndarray]:
    """The first ``count`` rows of ``make(0)``, ``make(1)``, ..., pieces of ``size`` rows, from the cache or made.

    ``folder`` carries the hash of everything that ``make``, which must be picklable, makes them from.
    """
    from joblib import Parallel, delayed
    from tqdm import tqdm

    pieces = range(-(-count // size))
    missing = [piece for piece in pieces if not (cache_dir() / _name(folder, piece)).is_file()]
    processes = min(processes or os.cpu_count() or 1, len(missing))
    one = partial(_piece, folder, make)
    if processes > 1 and len(missing) > _FEW:
        bar = tqdm(total=len(pieces) * size, initial=(len(pieces) - len(missing)) * size, file=sys.stderr, disable=None)
        # joblib's processes do not import the caller's main module, so that a script needs no __main__ guard
        with bar:
            for _ in Parallel(processes, return_as="generator_unordered")(delayed(_kept)(one, p) for p in missing):
                bar.update(size)
    columns: dict[str, np.ndarray] = {}
    for piece in pieces:
        start, arrays = piece * size, one(piece)
        for name, column in arrays.items():
            if name not in columns:
                columns[name] = np.empty((count, *column.shape[1:]), column.dtype)
            columns[name][start : start + size] = column[: count - start]
    return columns


def _name(folder: str, piece: int) -> str:
    return f"{folder}/{piece:06d}.npz"


def _piece(folder: str, make: Callable[[int], dict[str, np.ndarray]], piece: int) -> dict[str, np.ndarray]:
    return cached_arrays(_name(folder, piece), partial(make, piece))


def _kept(one: Callable[[int], dict[str, np.ndarray]], piece: int) -> None:
    one(piece)
