"""IMDB: the sentiment of whole film reviews."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

import numpy as np

from neurons.errors import UsageError
from neurons.specs import OutputSpec
from tasks import TASKS
from tasks.data import Rows, Source, load_rows, stratified
from tasks.task import Task, TaskData, check_share
from tasks.text import as_tokens


@TASKS.register("imdb")
class IMDB(Task):
    """Sentiment of film reviews, 25k to train on and 25k to test, 2 classes (Maas et al. 2011).

    ``fraction`` of train is held out by ``seed``, stratified, copies of one review on one side. Copies shared by train
    and test (a property of the data set) stay. At word level line-break tags become spaces. ``max_length`` None is the
    first 400 word pieces or, as in Long Range Arena, the first 4096 bytes.
    """

    floors: ClassVar[tuple[str, ...]] = ("majority", "logistic-regression", "nb-svm")
    disjoint: ClassVar[bool] = False
    data: ClassVar[Source | None] = Source(
        folder="imdb",
        config="plain_text",
        hub="stanfordnlp/imdb",
        text="text",
        classes=2,
        checksums={
            "train": "692befa85501546667b98ca127fed49008d19a7af6eaee63a3a8a3140e33f303",
            "test": "323409e547e7984718145914a6d6d4b718e6e1ace7103002cc0c1684336c74ae",
        },
    )

    def __init__(
        self,
        *,
        level: Literal["word", "byte"] = "word",
        vocabulary: int = 16384,
        max_length: int | None = None,
        fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.level, self.vocabulary, self.max_length = level, vocabulary, max_length
        self.fraction, self.seed = fraction, seed
        check_share("fraction", fraction)
        if max_length is not None and max_length < 1:
            raise UsageError(f"task.max_length keeps at least one symbol, not {max_length}")

    def load(self, data_dir: str | None = None) -> TaskData:
        assert self.data is not None
        rows, source = load_rows(self.data, data_dir, task=self.name)
        # The hub's order is not the archive's, and both put one class first: sorted, the split is the same from either.
        train = _sorted(rows["train"])
        kept, held_out = split_reviews(train, fraction=self.fraction, seed=self.seed)
        parts = {"train": train.take(kept), "held_out": train.take(held_out), "test": _sorted(rows["test"])}
        if self.level == "word":
            parts = {split: _untagged(part) for split, part in parts.items()}
        length = self.max_length or (400 if self.level == "word" else 4096)
        splits, input = as_tokens(parts, level=self.level, vocabulary=self.vocabulary, max_length=length)
        counts = " / ".join(str(len(split)) for split in splits.values())
        tags = ", <br /> removed" if self.level == "word" else ""
        return TaskData(
            **splits,
            input=input,
            output=OutputSpec("label", 2),
            source=source,
            protocol=f"IMDB, {self.level} level, first {length} symbols{tags}; train / held out / test {counts};"
            f" held out: stratified, copies kept together, seed {self.seed}; no unlabelled reviews",
        )


def split_reviews(train: Rows, *, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(kept, held out) rows: ``fraction`` of the distinct texts of each label."""
    texts, first, which = np.unique(np.array(train.texts, dtype=object), return_index=True, return_inverse=True)
    chosen = np.zeros(len(texts), bool)
    chosen[stratified(train.labels[first], fraction, seed)[1]] = True
    return np.flatnonzero(~chosen[which]), np.flatnonzero(chosen[which])


def _untagged(rows: Rows) -> Rows:
    return Rows([re.sub(r"<br\s*/?>", " ", text) for text in rows.texts], rows.labels)


def _sorted(rows: Rows) -> Rows:
    return rows.take(np.array(sorted(range(len(rows)), key=lambda i: (rows.texts[i], rows.labels[i]))))
