"""A short byte-level sentiment task of our own, for a demonstration that takes minutes."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from tasks import TASKS
from tasks.suites.imdb import IMDB
from tasks.task import Split, TaskData, check_sizes
from tasks.thin import thinned


@TASKS.register("lra-text-short")
class LRATextShort(IMDB):
    """Ours, not Long Range Arena's: the first 512 bytes of film reviews, 10,000 of them to train on.

    ``train``, ``held_out`` and ``test`` are numbers of reviews at most, drawn by ``seed``, both classes in proportion,
    out of the splits of lra-text. A tenth of the reviews end within 512 bytes; what others say later is not seen.
    """

    floors: ClassVar[tuple[str, ...]] = ("majority", "logistic-regression", "convolution")

    def __init__(
        self, *, max_length: int = 512, train: int = 10000, held_out: int = 2000, test: int = 4000, seed: int = 0
    ) -> None:
        super().__init__(level="byte", max_length=max_length, seed=seed)
        self.train, self.held_out, self.test = train, held_out, test
        check_sizes(train, held_out, test, seed)

    def load(self, data_dir: str | None = None) -> TaskData:
        data = super().load(data_dir)

        def few(split: Split, count: int) -> Split:
            return replace(thinned(split, count, self.seed), texts=None)  # the texts go on where the bytes end

        train, held_out, test = (
            few(data.train, self.train),
            few(data.held_out, self.held_out),
            few(data.test, self.test),
        )
        return replace(
            data,
            train=train,
            held_out=held_out,
            test=test,
            protocol=f"{self.name}: first {self.max_length} bytes of IMDB reviews, stratified draws of its splits;"
            f" train / held out / test {len(train)} / {len(held_out)} / {len(test)}, seed {self.seed}",
        )
