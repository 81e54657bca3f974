"""WikiText-2: a few hundred articles of Wikipedia (Merity et al. 2016)."""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks import TASKS
from tasks.data import Source
from tasks.wikitext import WikiText


@TASKS.register("wikitext2")
class WikiText2(WikiText):
    """The next symbol of Wikipedia articles, 2 million words to train on (Merity et al. 2016).

    ``raw``: the text as it is, else the published tokens, where rare words are <unk>. Word perplexity counts the ends
    of lines as words: 217,646 of validation, 245,569 of test. ``unit``: bpe of ``vocabulary``, bytes or characters;
    ``context`` symbols are read at most; ``stride`` None tests in chunks, a smaller one than the context slides.
    """

    data: ClassVar[Source | None] = Source(
        folder="wikitext",
        config="wikitext-2-raw-v1",
        hub="Salesforce/wikitext",
        text="text",
        label=None,
        splits=("train", "validation", "test"),
    )

    def __init__(
        self,
        *,
        unit: Literal["characters", "bytes", "bpe"] = "bpe",
        vocabulary: int = 8192,
        context: int = 256,
        stride: int | None = None,
        raw: bool = True,
    ) -> None:
        super().__init__(unit=unit, vocabulary=vocabulary, context=context, stride=stride)
        self.raw = raw
