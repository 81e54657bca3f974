"""Language modelling: a text as windows of symbols, each to be predicted from those before it in its window.

    inputs t[s], .., t[s + C - 1]      targets t[s + 1], .., t[s + C]      C = ``context``

Windows start ``stride`` symbols apart. Each symbol but the first of a text is counted once, in the first window that
reaches it; elsewhere its target is IGNORE. ``stride = C`` cuts the text into chunks; a smaller one slides, so that
every symbol behind the first window is predicted from more than C - stride symbols.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from neurons.errors import DataError, UsageError
from neurons.specs import IGNORE, InputSpec, OutputSpec
from tasks.codec import PAD, Codec, build_codec
from tasks.metrics import TextCounts, bits_per_byte, language_metrics
from tasks.task import Split, Task, TaskData

Unit = Literal["characters", "bytes", "bpe"]


@dataclass(frozen=True)
class Corpus:
    """The three texts of a corpus, where they came from, and how they were split, in words."""

    train: str
    held_out: str
    test: str
    source: str
    told: str


@dataclass(frozen=True)
class TextData(TaskData):
    """Running text; ``codec``: how its symbols are written and read."""

    codec: Codec = field(kw_only=True)


def windows(tokens: np.ndarray, *, context: int, stride: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Windows over ``tokens`` (N,): inputs, rows of min(context, N - 1) symbols, and their targets, int64 with IGNORE.

    The last window is moved back to end with the text. UsageError unless 1 <= stride <= context.
    """
    if not 1 <= stride <= context:
        raise UsageError(f"task.stride is 1 to the context of {context}, not {stride}. Try: task.stride={context // 2}")
    length = min(context, len(tokens) - 1)
    last = len(tokens) - 1 - length
    starts = np.minimum(np.arange(0, last + stride, stride), last)
    tokens = tokens.astype(np.int32, copy=False)
    inputs = [tokens[start : start + length] for start in starts]
    targets = np.lib.stride_tricks.sliding_window_view(tokens[1:], length)[starts].astype(np.int64)
    again = np.concatenate([[0], starts[:-1] + length - starts[1:]])  # of each row, what the row before has counted
    targets[np.arange(length) < again[:, None]] = IGNORE
    return inputs, targets


def stream(split: Split) -> np.ndarray:
    """The tokens (N,) that ``windows`` cut into ``split``."""
    return np.concatenate([split.inputs[0][:1].astype(np.int64), split.labels[split.labels != IGNORE]])


class LanguageTask(Task):
    """Base of the language tasks: a corpus in units, windows of ``context`` symbols, bits per byte.

    Every symbol but a text's first is predicted; its bytes are left out. A subclass defines ``corpus``. ``line_ends``:
    whether the end of a line is a word, as WikiText counts them.
    """

    primary: ClassVar[str] = "bits_per_byte"
    higher_is_better: ClassVar[bool] = False
    by_likelihood: ClassVar[bool] = True
    disjoint: ClassVar[bool] = False
    floors: ClassVar[tuple[str, ...]] = ("unigram", "kneser-ney")
    line_ends: ClassVar[bool] = False

    def __init__(self, *, unit: Unit, vocabulary: int, context: int, stride: int | None) -> None:
        self.unit, self.vocabulary, self.context, self.stride = unit, vocabulary, context, stride
        if context < 1:
            raise UsageError(f"task.context is at least 1 symbol, not {context}. Try: task.context=64")
        if stride is not None and not 1 <= stride <= context:
            raise UsageError(f"task.stride is 1 to the context of {context}, not {stride}. Try: task.stride={context}")

    def corpus(self, data_dir: str | None) -> Corpus:
        raise NotImplementedError("abstract: a language task defines corpus(data_dir)")

    def load(self, data_dir: str | None = None) -> TextData:
        found = self.corpus(data_dir)
        texts = {"train": found.train, "held_out": found.held_out, "test": found.test}
        for name, text in texts.items():
            if not text.strip():
                raise DataError(f"task '{self.name}': the {name.replace('_', ' ')} text of {found.source} is empty")
        codec = build_codec(self.unit, found.train, vocabulary=self.vocabulary)
        splits = {name: self._split(name, text, codec, found.source) for name, text in texts.items()}
        unit = codec.unit + "s"
        rows = " / ".join(str(len(split)) for split in splits.values())
        sizes = " / ".join(f"{len(text.encode()):,}" for text in texts.values())
        return TextData(
            **splits,
            input=InputSpec("tokens", length=self.context, size=codec.size, pad=PAD),
            output=OutputSpec("token", codec.size),
            source=found.source,
            protocol=f"{found.told}; train / held out / test {sizes} bytes, {rows} windows of {self.context} {unit} of"
            f" {codec.size}; {self._evaluated(unit)}{_strangers(splits, codec)}",
            codec=codec,
        )

    def _split(self, name: str, text: str, codec: Codec, source: str) -> Split:
        tokens = codec.encode(text)
        if len(tokens) < 2:
            raise DataError(
                f"task '{self.name}': the {name.replace('_', ' ')} text of {source} has fewer than 2 symbols"
            )
        stride = self.stride if name == "test" and self.stride is not None else self.context
        inputs, targets = windows(tokens, context=self.context, stride=stride)
        first = len(codec.pieces[int(tokens[0])]) or len(text[0].encode())
        words = len(text.split()) + (text.count("\n") if self.line_ends else 0)
        return Split(inputs, targets, counts=TextCounts(len(text.encode()) - first, words))

    def _evaluated(self, unit: str) -> str:
        if self.stride in (None, self.context):
            return f"test in chunks of {self.context} {unit}"
        return f"test in windows of {self.context} {unit} every {self.stride}, held out in chunks"

    def score(
        self, split: Split, *, predicted: np.ndarray | None = None, nats: float | None = None
    ) -> dict[str, float]:
        """``bits_per_byte``, ``nats_per_token``, ``token_ppl`` and ``word_ppl`` of ``nats``, the negative
        log-likelihood of all targets; ``accuracy`` of the next symbol where there are predictions."""
        if nats is None or split.counts is None:
            raise ValueError("a language task is scored by the likelihood of a text whose bytes are known")
        told = language_metrics(nats, int((split.labels != IGNORE).sum()), split.counts)
        return told if predicted is None else told | super().score(split, predicted=predicted)

    def chance(self, data: TaskData) -> tuple[float, str]:
        assert data.test.counts is not None
        targets = int((data.test.labels != IGNORE).sum())
        level = bits_per_byte(targets * float(np.log(data.output.size - 1)), data.test.counts)
        return level, f"{level:.3f} for a uniform guess"


def _strangers(splits: dict[str, Split], codec: Codec) -> str:
    """How many symbols of the evaluated texts training never saw."""
    if codec.unknown is None:
        return ""
    count = sum(int((splits[name].labels == codec.unknown).sum()) for name in ("held_out", "test"))
    return f"; {count} of their {codec.unit}s never seen in training" if count else ""
