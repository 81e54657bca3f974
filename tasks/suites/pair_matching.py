"""Do two documents have the same topic? A generated stand-in for retrieval over texts that may not be passed on.

    vocabulary:  ``words`` distinct words of 3 to 8 random lower-case letters, drawn once by the seed
    topic:       ``topic`` different words of it, drawn anew for every document unless it shares its partner's
    document:    words apart by a space, each with probability ``share`` from the topic, else from the whole vocabulary,
                 uniform in both; cut to a number of bytes uniform in length / 2 .. length
    label:       1 where both documents have one topic, 0 where each has its own; even odds

Topics are drawn, not chosen from a list: where there are many to draw, hardly one comes twice, and nothing can be
learned by heart but the words.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from neurons.errors import UsageError
from neurons.specs import InputSpec, OutputSpec
from tasks import TASKS
from tasks.cache import cached_arrays, key
from tasks.task import Split, Task, TaskData, check_sizes
from tasks.text import BYTE_SYMBOLS, PAD

_BLOCK = 256  # pairs drawn at a time
_SHORTEST, _LONGEST = 3, 8  # letters of a word


def vocabulary(words: int, seed: int) -> np.ndarray:
    """(words, 9) uint8 ids: the letters of each word, a space, zeros."""
    rng = np.random.default_rng((seed, 0))
    found: dict[bytes, int] = {}
    while len(found) < words:
        letters = rng.integers(ord("a"), ord("z") + 1, _LONGEST, dtype=np.uint8)
        found.setdefault(letters[: rng.integers(_SHORTEST, _LONGEST + 1)].tobytes(), len(found))
    ids = np.zeros((words, _LONGEST + 1), np.uint8)
    for word, row in found.items():
        ids[row, : len(word) + 1] = np.frombuffer(word + b" ", np.uint8) + 1
    return ids


def generate(
    count: int, *, seed: int, length: int, words: int, topic: int, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """``count`` pairs as the module says: ids (count, 2, length) uint8, bytes + 1 with 0 behind a document's end, and
    labels (count,). The first n of a longer list are the list of n."""
    if not (1 <= topic <= words and 0 < share <= 1 and length >= 2):
        raise UsageError(
            "pair-matching needs 1 <= topic <= words, 0 < share <= 1 and length >= 2,"
            f" not topic {topic}, words {words}, share {share}, length {length}"
        )
    ids = vocabulary(words, seed)
    most = length // (_SHORTEST + 1) + 1
    pairs, labels = np.zeros((count, 2, length), np.uint8), np.empty(count, np.int64)
    for block, start in enumerate(range(0, count, _BLOCK)):
        rng = np.random.default_rng((seed, 1, block))
        label = rng.integers(0, 2, _BLOCK)
        topics = np.argpartition(rng.random((_BLOCK, 2, words), np.float32), topic - 1, axis=2)[..., :topic]
        topics[:, 1] = np.where(label[:, None] == 1, topics[:, 0], topics[:, 1])
        about = rng.integers(0, topic, (_BLOCK, 2, most))
        drawn = rng.integers(0, words, (_BLOCK, 2, most))
        drawn = np.where(rng.random((_BLOCK, 2, most)) < share, np.take_along_axis(topics, about, 2), drawn)
        ends = rng.integers(length // 2, length + 1, (_BLOCK, 2))
        for row in range(min(_BLOCK, count - start)):
            for which in (0, 1):
                text = ids[drawn[row, which]]
                pairs[start + row, which, : ends[row, which]] = text[text > 0][: ends[row, which]]
            labels[start + row] = label[row]
    return pairs, labels


class PairMatchingTask(Task):
    """What the generated pair tasks share: seeded generation, cached, split in the order of generation."""

    floors: ClassVar[tuple[str, ...]] = ("majority", "logistic-regression", "convolution")
    length: int
    words: int
    topic: int
    share: float
    train: int
    held_out: int
    test: int
    seed: int

    def load(self, data_dir: str | None = None) -> TaskData:
        sizes = (self.train, self.held_out, self.test)
        options: dict[str, Any] = {"length": self.length, "words": self.words, "topic": self.topic, "share": self.share}

        def make() -> dict[str, np.ndarray]:
            pairs, labels = generate(sum(sizes), seed=self.seed, **options)
            return {"pairs": pairs, "labels": labels}

        arrays = cached_arrays(f"pairs-{key(version=1, count=sum(sizes), seed=self.seed, **options)}.npz", make)
        ends = np.cumsum((0, *sizes))
        train, held_out, test = (
            Split(list(arrays["pairs"][a:b]), arrays["labels"][a:b]) for a, b in pairwise(ends.tolist())
        )
        told = ", ".join(f"{name}={value}" for name, value in options.items())
        return TaskData(
            train=train,
            held_out=held_out,
            test=test,
            input=InputSpec("tokens", length=self.length, size=BYTE_SYMBOLS, pad=PAD, pair=True),
            output=OutputSpec("label", 2),
            source=f"generated:pair-matching(seed={self.seed}, {told})",
            protocol=f"{self.name}: do two documents of bytes share their topic, {told};"
            f" train / held out / test {' / '.join(map(str, sizes))}",
        )


@TASKS.register("pair-matching")
class PairMatching(PairMatchingTask):
    """Ours, in place of Long Range Arena's Retrieval: do two documents of up to 4,000 bytes share their topic?

    Words are random letters; ``share`` of a document's words come from its topic of ``topic`` words, the others from
    all ``words``. Both lengths and all numbers are ours, so results compare with no published row. The bag of bytes of
    both documents is the floor logistic-regression.
    ``train``, ``held_out`` and ``test`` are numbers of pairs, generated by ``seed``.
    """

    def __init__(
        self,
        *,
        length: int = 4000,
        words: int = 2000,
        topic: int = 12,
        share: float = 0.1,
        train: int = 20000,
        held_out: int = 2000,
        test: int = 2000,
        seed: int = 0,
    ) -> None:
        self.length, self.words, self.topic, self.share = length, words, topic, share
        self.train, self.held_out, self.test, self.seed = train, held_out, test, seed
        check_sizes(train, held_out, test, seed)
