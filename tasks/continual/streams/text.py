"""Streams of text: the same question about other texts, or which kind of text this is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from neurons.errors import UsageError
from neurons.specs import InputSpec, OutputSpec
from tasks import STREAMS
from tasks.continual.stream import SPLITS, Bases, Part, Stream
from tasks.continual.streams.split import ClassSplit
from tasks.data import stratified
from tasks.hashing import hashed
from tasks.language import TextData, stream
from tasks.task import Split, TaskData

Texts = Mapping[str, tuple[Sequence[str], np.ndarray]]  # of each split: n texts and their labels (n,)


@STREAMS.register("sentiment-domains")
class SentimentDomains(Stream):
    """Is this liked or not? First asked of phrases and sentences from film reviews (SST-2), then of whole reviews
    (IMDB): one question and one pair of labels, in texts of some ten words and of some two hundred.

    A text is a hashed bag of its words and pairs of words, ``size`` features without a vocabulary (``tasks.hashing``),
    so that the first task knows nothing of the second. At most ``rows`` of each split and domain, drawn by ``seed``,
    stratified; SST-2's test has 872.
    """

    bases: ClassVar[Bases] = {"sst2": {"level": "byte"}, "imdb": {"level": "byte"}}

    def __init__(
        self,
        *,
        scenario: Literal["task", "domain", "class"] = "domain",
        rows: int = 10000,
        size: int = 2048,
        seed: int = 0,
    ) -> None:
        super().__init__(tasks=len(self.bases), scenario=scenario, standardise=False)
        self.rows, self.size, self.seed = rows, size, seed
        _check(rows=rows, size=size, seed=seed)

    def parts(self, *data: TaskData) -> list[Part]:
        titles = ("phrases and sentences", "reviews")
        found = []
        for title, one in zip(titles, data, strict=True):
            texts = {}
            for name in SPLITS:
                split: Split = getattr(one, name)
                assert split.texts is not None
                chosen = _drawn(split.labels, self.rows, self.seed)
                texts[name] = ([split.texts[row] for row in chosen], split.labels[chosen])
            features = as_features(texts, classes=2, size=self.size, source=one.source, protocol=one.protocol)
            found.append(Part(title, features, (0, 1)))
        return found

    def describe(self) -> str:
        return (
            f"sentiment of phrases and sentences, then of reviews; hashed words and pairs of words, {self.size} "
            f"features; at most {self.rows} rows of a split, seed {self.seed}"
        )


@STREAMS.register("split-corpora")
class SplitCorpora(ClassSplit):
    """Which corpus is this window of text from? Shakespeare, the beginning of WikiText-103 and Python's standard
    library first, then the closer pair: whole film reviews (IMDB) and phrases of film reviews (SST-2).

    A window is ``window`` bytes of the running text, cut where it falls, and becomes a hashed bag of lower-cased words
    and pairs of words, ``size`` features without a vocabulary (``tasks.hashing``). ``rows`` windows of each corpus and
    split, or all there are, drawn by ``seed``. ``groups`` names the corpora of each task by their place above from 0,
    as "0,3/1,4".
    """

    bases: ClassVar[Bases] = {
        "shakespeare": {"unit": "bytes", "context": 4096},
        "wikitext103-partial": {"unit": "bytes", "context": 4096},
        "stdlib": {"unit": "bytes", "context": 4096, "megabytes": 1.0},
        "imdb": {"level": "byte"},
        "sst2": {"level": "byte"},
    }

    def __init__(
        self,
        *,
        tasks: int = 2,
        scenario: Literal["task", "domain", "class"] = "class",
        groups: str | None = None,
        rows: int = 2000,
        window: int = 100,
        size: int = 2048,
        seed: int = 0,
    ) -> None:
        super().__init__(tasks=tasks, scenario=scenario, groups=groups, standardise=False)
        self.rows, self.window, self.size, self.seed = rows, window, size, seed
        _check(rows=rows, size=size, seed=seed)
        if window < 8:
            raise UsageError(f"window is 8 bytes or more, not {window}. Try: stream.window=100")

    def parts(self, *data: TaskData) -> list[Part]:
        texts = {}
        for name in SPLITS:
            cut = [self._windows(running_text(one, name)) for one in data]
            labels = np.repeat(np.arange(len(cut)), [len(windows) for windows in cut])
            texts[name] = ([window for windows in cut for window in windows], labels)
        source = ", ".join(one.source for one in data)
        features = as_features(texts, classes=len(data), size=self.size, source=source, protocol="")
        names = dict(enumerate(self.bases))
        return [
            replace(part, title=", ".join(names.get(label, str(label)) for label in part.classes))
            for part in super().parts(features)
        ]

    def describe(self) -> str:
        return (
            f"{super().describe()} ({', '.join(self.bases)}); windows of {self.window} bytes, at most {self.rows} of a "
            f"corpus and split, seed {self.seed}; hashed words and pairs of words, {self.size} features"
        )

    def _windows(self, text: str) -> list[str]:
        """``rows`` windows of ``window`` bytes that do not overlap; a character cut by a border is left out."""
        raw = text.encode()
        count = max(len(raw) // self.window, 1)
        chosen = np.sort(np.random.default_rng(self.seed).permutation(count)[: self.rows])
        starts = (chosen * self.window).tolist()
        return [raw[start : start + self.window].decode(errors="ignore") for start in starts]


def running_text(data: TaskData, name: str) -> str:
    """Split ``name`` as one text: a corpus as it is, the rows of labelled texts line by line."""
    split: Split = getattr(data, name)
    if isinstance(data, TextData):
        return data.codec.decode(stream(split))
    assert split.texts is not None
    return "\n".join(split.texts)


def as_features(texts: Texts, *, classes: int, size: int, source: str, protocol: str) -> TaskData:
    """Labelled texts as a task of one step of ``size`` features."""
    splits = {
        name: Split(hashed(rows, size=size)[:, None], labels.astype(np.int64)) for name, (rows, labels) in texts.items()
    }
    return TaskData(
        **splits,
        input=InputSpec("features", length=1, size=size),
        output=OutputSpec("label", classes),
        source=source,
        protocol=protocol,
    )


def _drawn(labels: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """All places, or about ``rows`` of them with the labels in proportion, ascending."""
    return np.arange(len(labels)) if len(labels) <= rows else stratified(labels, rows / len(labels), seed)[1]


def _check(*, rows: int, size: int, seed: int) -> None:
    for option, value, least in (("rows", rows, 8), ("size", size, 16), ("seed", seed, 0)):
        if value < least:
            raise UsageError(f"{option} is {least} or more, not {value}. Try: stream.{option}={max(least, 1000)}")
