"""Multi-query associative recall: keys and values once, then the keys again, far apart (Arora et al. 2023, "Zoology").

    k1 v1 k2 v2 .. kn vn | .. k4 .. .. k1 .. k2 ..        the target at each repeated key is its value, elsewhere IGNORE

Behind the n pairs come ``space = (length - 2 n) / 2`` places, two symbols apart. Every key is asked once, at a place
drawn without replacement with probability proportional to gap^(power - 1): a small ``power`` asks soon after the pairs,
as words come back in text, 1 asks anywhere. The other symbols are random ones, or blanks.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from neurons.errors import UsageError, nearest
from neurons.specs import IGNORE, InputSpec, OutputSpec
from tasks import TASKS
from tasks.task import Split, Task, TaskData, check_sizes

_BLOCK = 1024  # sequences drawn at a time


def generate(
    count: int,
    *,
    seed: int,
    pairs: int = 64,
    length: int = 256,
    vocabulary: int = 8192,
    power: float = 0.01,
    fill: Literal["random", "blank"] = "random",
) -> tuple[np.ndarray, np.ndarray]:
    """``count`` distinct sequences: inputs (count, length) int32 and targets (count, length) int64 with IGNORE.

    Symbols: 0 pads and never occurs, 1 is the blank, keys are 2 .. vocabulary / 2, values the rest below
    ``vocabulary``. The first n of a longer list are the list of n. UsageError where the options admit none.
    """
    _check(pairs, length, vocabulary, power, fill)
    inputs, targets = np.empty((count, length), np.int32), np.empty((count, length), np.int64)
    seen: set[bytes] = set()
    block = 0
    while len(seen) < count:
        drawn = _drawn(np.random.default_rng((seed, block)), pairs, length, vocabulary, power, fill)
        before = len(seen)
        for row, target in zip(*drawn, strict=True):
            if len(seen) < count and row.tobytes() not in seen:
                inputs[len(seen)], targets[len(seen)] = row, target
                seen.add(row.tobytes())
        if len(seen) == before:
            raise UsageError(f"mqar: only {before} distinct sequences found of {count}: raise task.vocabulary")
        block += 1
    return inputs, targets


def _drawn(
    rng: np.random.Generator, pairs: int, length: int, vocabulary: int, power: float, fill: str
) -> tuple[np.ndarray, np.ndarray]:
    half = vocabulary // 2
    keys = 2 + _first(rng.random((_BLOCK, half - 1)), pairs)
    values = half + 1 + _first(rng.random((_BLOCK, vocabulary - half - 1)), pairs)
    # The places of an exponential race come in the order of draws without replacement, each proportional to its rate.
    rate = np.arange(1, (length - 2 * pairs) // 2 + 1) ** (power - 1.0)
    asked = 2 * pairs + 2 * _first(rng.exponential(size=(_BLOCK, len(rate))) / rate, pairs)
    inputs = rng.integers(1, vocabulary, (_BLOCK, length)) if fill == "random" else np.ones((_BLOCK, length), np.int64)
    inputs[:, 0 : 2 * pairs : 2], inputs[:, 1 : 2 * pairs : 2] = keys, values
    targets = np.full((_BLOCK, length), IGNORE, np.int64)
    np.put_along_axis(inputs, asked, keys, 1)
    np.put_along_axis(targets, asked, values, 1)
    return inputs.astype(np.int32), targets


def _first(times: np.ndarray, count: int) -> np.ndarray:
    """(rows, count): the places of each row's ``count`` smallest entries, smallest first."""
    if count < times.shape[1]:
        places = np.argpartition(times, count - 1, axis=1)[:, :count]
    else:
        places = np.broadcast_to(np.arange(count), times.shape)
    order = np.take_along_axis(times, places, 1).argsort(1)
    return np.take_along_axis(places, order, 1)


def _check(pairs: int, length: int, vocabulary: int, power: float, fill: str) -> None:
    if not 1 <= pairs <= 256:
        raise UsageError(f"mqar: task.pairs is 1 to 256, not {pairs}. Try: task.pairs=64")
    if length % 2 or length < 4 * pairs:
        raise UsageError(f"mqar: {pairs} pairs and their queries need an even task.length of {4 * pairs} or more")
    if vocabulary <= length:
        raise UsageError(f"mqar: task.vocabulary must exceed the length of {length}, not {vocabulary}")
    if not 0 < power <= 1:
        raise UsageError(f"mqar: task.power lies above 0 and at most at 1 (uniform), not {power}. Try: task.power=0.01")
    if fill not in ("random", "blank"):
        raise UsageError(f"mqar: task.fill '{fill}' is unknown.{nearest(fill, ('random', 'blank'))} Try: random, blank")


@TASKS.register("mqar")
class Mqar(Task):
    """Multi-query associative recall: ``pairs`` keys with values, then every key again in random order.

    Accuracy is over the queries alone. A random value reaches 2 / ``vocabulary``, a random one seen 1 / ``pairs``, and
    one at the best distance twice that at the default ``power`` (floor ``copy``).
    ``length`` None is the tightest, 4 ``pairs``; ``power`` shapes the gaps and ``fill`` the symbols between queries
    (random or blank). ``train``, ``held_out`` and ``test`` are numbers of sequences, generated by ``seed``; published
    are 100,000 and 3,000 of 8,192 symbols, with 4 to 64 pairs in lengths 64 to 512. Source: Arora et al. 2023.
    """

    floors: ClassVar[tuple[str, ...]] = ("majority", "copy")

    def __init__(
        self,
        *,
        pairs: int = 64,
        length: int | None = None,
        vocabulary: int = 8192,
        power: float = 0.01,
        fill: Literal["random", "blank"] = "random",
        train: int = 20000,
        held_out: int = 1000,
        test: int = 3000,
        seed: int = 0,
    ) -> None:
        self.pairs, self.length, self.vocabulary, self.power, self.fill = pairs, length, vocabulary, power, fill
        self.train, self.held_out, self.test, self.seed = train, held_out, test, seed
        check_sizes(train, held_out, test, seed)
        _check(pairs, length or 4 * pairs, vocabulary, power, fill)

    def load(self, data_dir: str | None = None) -> TaskData:
        length = self.length or 4 * self.pairs
        sizes = (self.train, self.held_out, self.test)
        inputs, targets = generate(
            sum(sizes),
            seed=self.seed,
            pairs=self.pairs,
            length=length,
            vocabulary=self.vocabulary,
            power=self.power,
            fill=self.fill,
        )
        ends = np.cumsum(sizes)[:-1]
        train, held_out, test = (
            Split(list(x), y) for x, y in zip(np.split(inputs, ends), np.split(targets, ends), strict=True)
        )
        return TaskData(
            train=train,
            held_out=held_out,
            test=test,
            input=InputSpec("tokens", length=length, size=self.vocabulary, pad=0),
            output=OutputSpec("token", self.vocabulary),
            source="generated:neurons",
            protocol=f"multi-query associative recall, {self.pairs} pairs in {length} symbols of {self.vocabulary},"
            f" gaps to the power {self.power}, {self.fill} between queries; train / held out / test"
            f" {' / '.join(map(str, sizes))}, seed {self.seed}",
        )
