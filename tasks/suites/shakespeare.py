"""Tiny Shakespeare: the corpus of character-level models (Karpathy 2015)."""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks import TASKS
from tasks.data import Source, load_rows
from tasks.language import Corpus, LanguageTask


@TASKS.register("shakespeare")
class Shakespeare(LanguageTask):
    """The next character of Shakespeare's plays, 1,115,394 characters of 65 (Karpathy 2015).

    The folder's own splits, 90 / 5 / 5 % in order: train is nanoGPT's; nanoGPT validates on held out and test together
    and has no test. ``unit``: characters, bytes or bpe of ``vocabulary``; ``context`` symbols are read at most;
    ``stride`` None tests in chunks, a smaller one than the context slides.
    """

    data: ClassVar[Source | None] = Source(
        folder="tiny_shakespeare",
        config="default",
        hub="karpathy/tiny_shakespeare",
        text="text",
        label=None,
        splits=("train", "validation", "test"),
    )

    def __init__(
        self,
        *,
        unit: Literal["characters", "bytes", "bpe"] = "characters",
        vocabulary: int = 1024,
        context: int = 64,
        stride: int | None = None,
    ) -> None:
        super().__init__(unit=unit, vocabulary=vocabulary, context=context, stride=stride)

    def corpus(self, data_dir: str | None) -> Corpus:
        assert self.data is not None
        rows, source = load_rows(self.data, data_dir, task=self.name)
        train, held_out, test = ("".join(rows[name].texts) for name in self.data.splits)
        told = "Tiny Shakespeare, 90 / 5 / 5 % in order (nanoGPT's validation is held out and test together)"
        return Corpus(train, held_out, test, source, told)
