"""The beginning of WikiText-103's training text, for machines that have no more of it."""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks import TASKS
from tasks.data import Source
from tasks.wikitext import WikiText


@TASKS.register("wikitext103-partial")
class WikiText103Partial(WikiText):
    """The first 154 articles of WikiText-103's training text, .53 % of it; its whole validation and test.

    548,410 words to train on, with <unk>. Not WikiText-103: no figure of the one belongs beside one of the other.
    ``unit``: bpe of ``vocabulary``, bytes or characters; ``context`` symbols are read at most; ``stride`` None tests in
    chunks, a smaller one than the context slides.
    """

    data: ClassVar[Source | None] = Source(
        folder="wikitext",
        config="wikitext-103-v1-partial",
        hub="Salesforce/wikitext",
        text="text",
        label=None,
        splits=("train", "validation", "test"),
    )

    def __init__(
        self,
        *,
        unit: Literal["characters", "bytes", "bpe"] = "bpe",
        vocabulary: int = 4096,
        context: int = 256,
        stride: int | None = None,
    ) -> None:
        super().__init__(unit=unit, vocabulary=vocabulary, context=context, stride=stride)
