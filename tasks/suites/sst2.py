"""SST-2: the sentiment of film-review sentences, from GLUE."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from neurons.errors import UsageError
from neurons.specs import OutputSpec
from tasks import TASKS
from tasks.cache import cached_arrays, key
from tasks.data import Source, load_rows, text_hash
from tasks.task import Task, TaskData, check_share
from tasks.text import as_tokens


@TASKS.register("sst2")
class SST2(Task):
    """Sentiment of film-review sentences, 2 classes (Socher et al. 2013; GLUE, Wang et al. 2019).

    GLUE hides its test labels: the test split here is GLUE's validation set of 872 sentences. GLUE's train set holds
    67k phrases of 6.9k sentences, so rows held out at random would share their words with rows trained on. Hence
    ``holdout="sentences"`` holds out whole sentences (maximal phrases, a fraction ``fraction`` of them) and drops every
    phrase of two or more words that one of them contains; ``"phrases"`` is the plain random sample of rows.
    ``seed`` chooses what is held out. ``max_length`` None is 64 word pieces or 288 bytes.
    """

    floors: ClassVar[tuple[str, ...]] = ("majority", "logistic-regression", "nb-svm")
    data: ClassVar[Source | None] = Source(
        folder="glue",
        config="sst2",
        hub="nyu-mll/glue",
        text="sentence",
        classes=2,
        splits=("train", "validation"),
        checksums={
            "train": "db2aca08c818046c59cf8a58d936cf0fd3744b8141488552cba05c6855834be7",
            "validation": "ee9b1e684f7a0c4481c46396604d4efa993fc113b6962aae0e8964667fc7ed28",
        },
    )

    def __init__(
        self,
        *,
        level: Literal["word", "byte"] = "word",
        vocabulary: int = 8192,
        max_length: int | None = None,
        holdout: Literal["sentences", "phrases"] = "sentences",
        fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.level, self.vocabulary, self.max_length = level, vocabulary, max_length
        self.holdout, self.fraction, self.seed = holdout, fraction, seed
        check_share("fraction", fraction)
        if max_length is not None and max_length < 1:
            raise UsageError(f"task.max_length keeps at least one symbol, not {max_length}")

    def load(self, data_dir: str | None = None) -> TaskData:
        assert self.data is not None
        rows, source = load_rows(self.data, data_dir, task=self.name)
        train = rows["train"]
        if self.holdout == "sentences":
            kept, held_out = split_by_sentence(train.texts, fraction=self.fraction, seed=self.seed)
            how = "whole sentences held out, the phrases they contain (two or more words) dropped"
        else:
            order = np.random.default_rng(self.seed).permutation(len(train))
            held_out, kept = np.split(order, [round(self.fraction * len(train))])
            how = "random rows held out, phrases of one sentence on both sides"
        parts = {"train": train.take(kept), "held_out": train.take(held_out), "test": rows["validation"]}
        length = self.max_length or (64 if self.level == "word" else 288)
        splits, input = as_tokens(parts, level=self.level, vocabulary=self.vocabulary, max_length=length)
        counts = " / ".join(str(len(split)) for split in splits.values())
        dropped = len(train) - len(kept) - len(held_out)
        return TaskData(
            **splits,
            input=input,
            output=OutputSpec("label", 2),
            source=source,
            protocol=f"SST-2 (GLUE), {self.level} level, first {length} symbols; train / held out / test {counts};"
            f" train with phrases; {how}: {dropped} rows dropped;"
            " test = GLUE validation (GLUE's test labels are hidden)",
        )


def split_by_sentence(texts: list[str], *, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out.

    Held out is ``fraction`` of the maximal phrases. A phrase of two or more words that occurs in one of them as a
    contiguous run of words, the same text included, is in neither.
    """

    def compute() -> dict[str, np.ndarray]:
        grams = _Grams(texts)
        sentences = np.flatnonzero(~grams.inside(np.ones(len(texts), bool), proper=True))
        chosen = np.random.default_rng(seed).permutation(sentences)[: max(1, round(fraction * len(sentences)))]
        held_out = np.zeros(len(texts), bool)
        held_out[chosen] = True
        leaked = grams.inside(held_out, proper=False) & (grams.lengths > 1)
        return {"kept": np.flatnonzero(~leaked & ~held_out), "held_out": np.sort(chosen)}

    name = f"sst2-{key(texts=text_hash(texts), fraction=fraction, seed=seed, version=1)}.npz"
    arrays = cached_arrays(name, compute)
    return arrays["kept"], arrays["held_out"]


class _Grams:
    """Hashes of all runs of words of all phrases, one length at a time.

    h_n[i] = h_{n-1}[i] * base + w[i + n - 1] mod 2^64, with a random w for each word.
    """

    def __init__(self, texts: list[str]) -> None:
        known: dict[str, int] = {}
        words = [[known.setdefault(word, len(known)) for word in text.lower().split()] for text in texts]
        self.lengths = np.array([len(row) for row in words])
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.phrase = np.repeat(np.arange(len(texts)), self.lengths)
        values = np.random.default_rng(0).integers(0, 2**64, len(known), dtype=np.uint64)
        self.words = values[np.array([word for row in words for word in row], dtype=np.int64)]

    def inside(self, containers: np.ndarray, *, proper: bool) -> np.ndarray:
        """(n,) bool: whether each phrase occurs in one of ``containers``; ``proper``: in one longer than itself."""
        found = np.zeros(len(self.lengths), bool)
        hashes = self.words
        for n in range(1, int(self.lengths.max()) + 1):
            if n > 1:
                hashes = hashes[:-1] * np.uint64(0x9E3779B97F4A7C15) + self.words[n - 1 :]
            owner = self.phrase[: len(hashes)]
            whole = (owner == self.phrase[n - 1 :]) & containers[owner] & (self.lengths[owner] >= n + proper)
            rows = np.flatnonzero(self.lengths == n)
            found[rows] = np.isin(hashes[self.starts[rows]], hashes[whole])
        return found
