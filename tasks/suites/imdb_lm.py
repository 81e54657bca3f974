"""Unlabelled film reviews as running text."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from neurons.errors import UsageError
from tasks import TASKS
from tasks.data import Source, load_rows
from tasks.language import Corpus, LanguageTask
from tasks.task import check_share


@TASKS.register("imdb-lm")
class IMDBText(LanguageTask):
    """The next symbol of film reviews: the 50,000 unlabelled ones of IMDB, 66.5 MB (Maas et al. 2011).

    Each distinct review once, shuffled by ``seed``, an empty line between two; ``fraction`` of them is held out and as
    much is the test. Line-break tags stay. ``unit``: bpe of ``vocabulary``, bytes or characters; ``context`` symbols
    are read at most; ``stride`` None tests in chunks, a smaller one than the context slides.
    """

    data: ClassVar[Source | None] = Source(
        folder="imdb_unsupervised",
        config="plain_text",
        hub="stanfordnlp/imdb",
        text="text",
        label=None,
        splits=("unsupervised",),
    )

    def __init__(
        self,
        *,
        unit: Literal["characters", "bytes", "bpe"] = "bpe",
        vocabulary: int = 8192,
        context: int = 256,
        stride: int | None = None,
        fraction: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__(unit=unit, vocabulary=vocabulary, context=context, stride=stride)
        self.fraction, self.seed = fraction, seed
        check_share("fraction", fraction)
        if fraction >= 0.5:
            raise UsageError(f"task.fraction is held out, and as much is the test: below 0.5, not {fraction}")

    def corpus(self, data_dir: str | None) -> Corpus:
        assert self.data is not None
        rows, source = load_rows(self.data, data_dir, task=self.name)
        reviews = sorted({*rows["unsupervised"].texts})  # one order, whatever the source's
        order = np.random.default_rng(self.seed).permutation(len(reviews))
        count = max(1, round(self.fraction * len(reviews)))
        parts = np.split(order, [count, 2 * count])
        test, held_out, train = ("\n\n".join(reviews[i] for i in part) for part in parts)
        told = f"IMDB's unlabelled reviews, {len(reviews)} distinct, {count} each held out and test, seed {self.seed}"
        return Corpus(train, held_out, test, source, told)
