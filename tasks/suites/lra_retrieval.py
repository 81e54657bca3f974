"""Retrieval of Long Range Arena: does one paper cite the other?"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from neurons.errors import DataError, UsageError
from neurons.specs import InputSpec, OutputSpec
from tasks import TASKS
from tasks.data import data_root
from tasks.task import Split, Task, TaskData
from tasks.text import BYTE_SYMBOLS, PAD

FILES = {"train": "train", "held_out": "eval", "test": "test"}


@TASKS.register("lra-retrieval")
class LRARetrieval(Task):
    """Long Range Arena's Retrieval: two papers of the ACL Anthology Network, byte by byte, related or not.

    The texts may not be passed on. Bring the published files new_aan_pairs.train.tsv, .eval.tsv and .test.tsv (of the
    arena's lra_release, folder tsv_data) as ``<data-dir>/aan/``; 147,086 / 18,090 / 17,437 pairs, label, two paper
    ids and two texts a line, tabs between. The first ``max_length`` bytes of each text are read. The generated task
    pair-matching stands in where they are not at hand.
    """

    floors: ClassVar[tuple[str, ...]] = ("majority", "logistic-regression", "convolution")
    disjoint: ClassVar[bool] = False
    own_folder: ClassVar[str] = "aan"

    def __init__(self, *, max_length: int = 4000) -> None:
        self.max_length = max_length
        if max_length < 1:
            raise UsageError(f"task.max_length keeps at least one byte, not {max_length}")

    def load(self, data_dir: str | None = None) -> TaskData:
        root = data_root(data_dir)
        folder = None if root is None else root / self.own_folder
        if folder is None or not folder.is_dir():
            raise DataError(
                f"no data for task '{self.name}': its texts may not be passed on, so bring the published files"
                f" {', '.join(_name(part) for part in FILES)} in a folder '{self.own_folder}' below"
                f" {root or 'the data root (--data-dir or NEURONS_DATA_DIR)'}. Try: --task pair-matching"
            )
        splits = {part: _read(folder / _name(part), self.max_length) for part in FILES}
        return TaskData(
            **splits,
            input=InputSpec("tokens", length=self.max_length, size=BYTE_SYMBOLS, pad=PAD, pair=True),
            output=OutputSpec("label", 2),
            source=f"local:{self.own_folder}",
            protocol=f"{self.name}: AAN pairs, first {self.max_length} bytes of each text; train / held out / test"
            f" {' / '.join(str(len(split)) for split in splits.values())}",
        )


def _name(part: str) -> str:
    return f"new_aan_pairs.{FILES[part]}.tsv"


def _read(path: Path, max_length: int) -> Split:
    """Rows (2, T) uint16: bytes + 1, zeros behind the shorter text."""
    if not path.is_file():
        raise DataError(f"{path} is missing: lra-retrieval needs {', '.join(_name(part) for part in FILES)}")
    rows, labels = [], []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.rstrip(b"\r\n").split(b"\t")
            if len(fields) != 5 or fields[0] not in (b"0", b"1", b"0.0", b"1.0"):
                raise DataError(f"{path}, line {number}: not a label 0 or 1, two ids and two texts with tabs between")
            texts = [(text or b" ")[:max_length] for text in fields[3:]]
            row = np.full((2, max(map(len, texts))), PAD, np.uint16)
            for place, text in zip(row, texts, strict=True):
                place[: len(text)] = np.frombuffer(text, np.uint8).astype(np.uint16) + 1
            rows.append(row)
            labels.append(fields[0].startswith(b"1"))
    if not rows:
        raise DataError(f"{path} is empty: it has no pairs")
    return Split(rows, np.array(labels, dtype=np.int64))
