"""Omniglot (Lake, Salakhutdinov & Tenenbaum 2015): characters of many alphabets, 20 drawings of each, 105 x 105."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from neurons.errors import DataError
from tasks.data import Source, data_root, load_rows
from tasks.fewshot.episodes import Episode, Pool
from tasks.images import decode

SIDE = 105
RUNS = 20
SOURCE = Source(
    folder="omniglot", config="default", hub="none", text="image", classes=964, splits=("small1",),
    image=(SIDE, SIDE, 1),
)  # fmt: skip


def background(data_dir: str | None = None) -> Pool:
    """The small background set 1: 136 characters of 5 alphabets, none of which is in the one-shot runs.

    DataError where the local folder is missing.
    """
    _folder(data_dir)
    rows, place = load_rows(SOURCE, data_dir, task="omniglot")
    found = rows["small1"]
    return Pool("omniglot", _ink(decode(found.samples, (SIDE, SIDE, 1), where=place)), found.labels, place)


def one_shot_runs(data_dir: str | None = None) -> list[Episode]:
    """Lake's 20 runs, 20-way 1-shot within an alphabet: one drawer's 20 characters, then another's, one query each.

    DataError where the archive is missing or is not what Lake's is.
    """
    path = _folder(data_dir) / "one_shot" / "all_runs.zip"
    if not path.is_file():
        raise DataError(f"{path} is missing: it holds the 20 one-shot runs (github.com/brendenlake/omniglot)")
    try:
        with zipfile.ZipFile(path) as archive:
            return [_run(archive, f"run{number:02d}") for number in range(1, RUNS + 1)]
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise DataError(f"{path} is not the archive of the 20 one-shot runs ({error})") from error


def _run(archive: zipfile.ZipFile, run: str) -> Episode:
    """class_labels.txt names, line by line, a query and the training picture of its class."""
    pairs = [line.split() for line in archive.read(f"{run}/class_labels.txt").decode().splitlines() if line.strip()]
    classes = sorted({trained for _, trained in pairs})
    support = [archive.read(name) for name in classes]
    query = [archive.read(name) for name, _ in pairs]
    answers = np.array([classes.index(trained) for _, trained in pairs])
    shape = (SIDE, SIDE, 1)
    return Episode(
        _ink(decode(support, shape, where=run)), np.arange(len(classes)), _ink(decode(query, shape, where=run)), answers
    )


def _ink(pictures: np.ndarray) -> np.ndarray:
    """Black strokes on white, (n, H, W, 1) uint8, as ink in [0, 1]."""
    return (1 - pictures[..., 0].astype(np.float32) / 255).astype(np.float32)


def _folder(data_dir: str | None) -> Path:
    root = data_root(data_dir)
    if root is None or not (root / "omniglot").is_dir():
        looked = "none is named" if root is None else f"not in {root}"
        raise DataError(
            f"no Omniglot: local folder 'omniglot': {looked}, name its parent with --data-dir or NEURONS_DATA_DIR."
            " Try: --data digits"
        )
    return root / "omniglot"
