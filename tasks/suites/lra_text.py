"""Text of Long Range Arena: the sentiment of whole film reviews, byte by byte."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from tasks import TASKS
from tasks.suites.imdb import IMDB
from tasks.task import TaskData


@TASKS.register("lra-text")
class LRAText(IMDB):
    """Long Range Arena's Text: film reviews as bytes, the first ``max_length`` of them, 2 classes, 25k / 25k.

    4096 is the best of the lengths 1024 to 4096 of Tay et al. 2021, whose code defaults to 1000. The published rows
    select on the test split; here ``fraction`` of train is held out by ``seed`` for that, as of imdb. The bag of bytes
    is the floor logistic-regression; nb-svm reads the words of the whole review.
    """

    floors: ClassVar[tuple[str, ...]] = ("majority", "logistic-regression", "convolution", "nb-svm")

    def __init__(self, *, max_length: int = 4096, fraction: float = 0.1, seed: int = 0) -> None:
        super().__init__(level="byte", max_length=max_length, fraction=fraction, seed=seed)

    def load(self, data_dir: str | None = None) -> TaskData:
        data = super().load(data_dir)
        return replace(data, protocol=f"{self.name}: {data.protocol}")
