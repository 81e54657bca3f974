"""ListOps of Long Range Arena: the value of a nested prefix expression (Nangia and Bowman 2018; Tay et al. 2021).

    tree(depth): with probability 1/4, where depth < max_depth, an operator uniform over MIN MAX MED SM with 2..max_args
                 children (uniform), each tree(depth + 1); else a digit, uniform over 0..9.
    MED is the integer part of the median, SM the sum modulo 10. Length counts operators, digits and closing brackets.

Trees with min_length < length < max_length are kept, each once. The original draws one tree at a time; here a block of
trees grows level by level in numpy, all lanes at once: the same distribution, 100k samples in about ten seconds.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar, NamedTuple

import numpy as np

from neurons.errors import UsageError
from neurons.specs import InputSpec, OutputSpec
from tasks import TASKS
from tasks.cache import cached_arrays, key
from tasks.task import Split, Task, TaskData, check_sizes
from tasks.text import pack, unpack

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
SYMBOLS = (*(str(digit) for digit in range(10)), *OPERATORS, "]")  # symbol s has id s + 1; 0 pads
_FIRST_OPERATOR, _CLOSE = 10, 14
_LANES = 1 << 14
FEWEST = 20  # samples of one depth whose accuracy is worth telling
_FRUITLESS = 20  # blocks without one new tree: there are no more to find


def generate(
    count: int, *, seed: int, min_length: int = 500, max_length: int = 2000, max_depth: int = 10, max_args: int = 10
) -> list[tuple[str, int]]:
    """``count`` distinct (expression, value) pairs, symbols apart by a space, no parentheses.

    The first n of a longer list are the list of n. UsageError where the options admit fewer.
    """
    trees = _distinct(count, seed, min_length, max_length, max_depth, max_args)
    return [(" ".join([SYMBOLS[symbol - 1] for symbol in ids]), value) for ids, value in trees]


def evaluate(expression: str) -> int:
    """The value 0..9 of an expression as ``generate`` writes it. ValueError where it is malformed."""
    pending: list[tuple[str, list[int]]] = [("", [])]
    for symbol in expression.split():
        if symbol in OPERATORS:
            pending.append((symbol, []))
        elif symbol == "]" and len(pending) > 1 and pending[-1][1]:
            operator, values = pending.pop()
            pending[-1][1].append(apply(operator, values))
        elif len(symbol) == 1 and symbol in "0123456789":
            pending[-1][1].append(int(symbol))
        else:
            raise ValueError(f"not a ListOps expression: '{symbol}' is out of place")
    if len(pending) != 1 or len(pending[0][1]) != 1:
        raise ValueError("not a ListOps expression: it needs one root and every bracket closed")
    return pending[0][1][0]


def apply(operator: str, values: list[int]) -> int:
    """The value 0..9 of ``operator`` over one or more values."""
    ordered = sorted(values)
    if operator == "[MIN":
        return ordered[0]
    if operator == "[MAX":
        return ordered[-1]
    if operator == "[SM":
        return sum(ordered) % 10
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) // 2


class _Level(NamedTuple):
    """The nodes at one depth, tree by tree, left to right; the children of its operators are the next level."""

    operator: np.ndarray  # (nodes,) bool
    arity: np.ndarray  # (operators,)


def _distinct(
    count: int, seed: int, min_length: int, max_length: int, max_depth: int, max_args: int
) -> Iterator[tuple[np.ndarray, int]]:
    """(ids uint8, value) of ``count`` distinct trees, in an order that depends on the seed and not on ``count``."""
    if max_args < 2 or max_depth < 1:
        raise UsageError(f"ListOps needs max_args >= 2 and max_depth >= 1, not {max_args} and {max_depth}")
    seen: set[bytes] = set()
    block = fruitless = 0
    while len(seen) < count:
        rng = np.random.default_rng((seed, block))
        before = len(seen)
        flat, lengths, values = _written(_grown(rng, min_length, max_length, max_depth, max_args), rng)
        for ids, value in zip(unpack({"flat": flat, "lengths": lengths}), values, strict=True):
            digest = hashlib.blake2b(ids.tobytes(), digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                yield ids, int(value)
                if len(seen) == count:
                    return
        block += 1
        fruitless = fruitless + 1 if len(seen) == before else 0
        if fruitless == _FRUITLESS:
            raise UsageError(
                f"ListOps: {len(seen)} trees of {count} found with {min_length} < length < {max_length},"
                f" max_depth {max_depth}, max_args {max_args}: widen the lengths or ask for fewer"
            )


def _grown(rng: np.random.Generator, min_length: int, max_length: int, max_depth: int, max_args: int) -> list[_Level]:
    """The levels of those of ``_LANES`` random trees whose length fits."""
    counts = np.ones(_LANES, np.int64)  # nodes of each lane at this depth
    length = np.zeros(_LANES, np.int64)
    levels = []
    for depth in range(1, max_depth + 1):
        lane = np.repeat(np.arange(_LANES), counts)
        # A byte is below 64 with probability 1/4 exactly.
        operator = rng.integers(0, 256, len(lane), dtype=np.uint8) < (64 if depth < max_depth else 0)
        owner = lane[operator]
        arity = rng.integers(2, max_args + 1, len(owner))
        children = np.bincount(owner, arity, _LANES).astype(np.int64)
        length += counts + np.bincount(owner, minlength=_LANES)  # a digit is one symbol, an operator two
        levels.append((lane, owner, operator, arity))
        counts = np.where(length + children < max_length, children, 0)
        length += children - counts  # a lane cut short counts as too long
    fits = (min_length < length) & (length < max_length)
    return [_Level(operator[fits[lane]], arity[fits[owner]]) for lane, owner, operator, arity in levels]


def _written(levels: list[_Level], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flat ids, lengths and values of the trees of ``levels``: sizes and values bottom up, then places top down."""
    sizes, symbols = [], []
    size = value = np.zeros(0, np.int64)
    for level in reversed(levels):
        kind = rng.integers(0, len(OPERATORS), len(level.arity))
        below_size, below_value = size, value
        size = np.ones(len(level.operator), np.int64)
        value = rng.integers(0, 10, len(level.operator))
        symbol = value.copy()
        if len(kind):
            size[level.operator] = 2 + np.add.reduceat(below_size, np.cumsum(level.arity) - level.arity)
            value[level.operator] = _values(kind, level.arity, below_value)
            symbol[level.operator] = _FIRST_OPERATOR + kind
        sizes.append(size)
        symbols.append(symbol)
    out = np.empty(int(size.sum()), np.uint8)
    place = np.cumsum(size) - size
    for level, size_here, symbol, below in zip(levels, sizes[::-1], symbols[::-1], [*sizes[-2::-1], None], strict=True):
        out[place] = symbol + 1
        opened = place[level.operator]
        out[opened + size_here[level.operator] - 1] = _CLOSE + 1
        if below is not None and len(opened):
            before = np.cumsum(below) - below
            first = np.cumsum(level.arity) - level.arity
            place = np.repeat(opened + 1 - before[first], level.arity) + before
        else:
            place = np.zeros(0, np.int64)
    return out, size, value


def _values(kind: np.ndarray, arity: np.ndarray, below: np.ndarray) -> np.ndarray:
    """(operators,) values from the operators' children ``below``, in order."""
    first = np.cumsum(arity) - arity
    ordered = np.sort(np.repeat(np.arange(len(arity)), arity) * 10 + below) % 10  # sorted within each operator
    minimum, maximum = ordered[first], ordered[first + arity - 1]
    median = (ordered[first + (arity - 1) // 2] + ordered[first + arity // 2]) // 2
    total = np.add.reduceat(below, first) % 10
    return np.choose(kind, [minimum, maximum, median, total])


def depths(split: Split) -> np.ndarray:
    """(n,) operators on the longest path of each tree from the root down; a lone digit has 0."""
    found = np.empty(len(split), np.int64)
    for row, sample in enumerate(split.inputs):
        symbols = np.asarray(sample).astype(np.int64) - 1
        steps = ((symbols >= _FIRST_OPERATOR) & (symbols < _CLOSE)).astype(np.int64) - (symbols == _CLOSE)
        found[row] = np.cumsum(steps).max()
    return found


class ListOpsTask(Task):
    """What the ListOps tasks share: seeded generation, cached, split in the order of generation."""

    max_depth: int
    max_args: int

    def score(
        self, split: Split, *, predicted: np.ndarray | None = None, nats: float | None = None
    ) -> dict[str, float]:
        """``accuracy``, and ``depth_3_accuracy`` and its like: where a reader stops following the brackets. Depths of
        fewer than ``FEWEST`` samples are left out."""
        metrics = super().score(split, predicted=predicted, nats=nats)
        depth, right = depths(split), np.asarray(predicted) == split.labels
        numbers, counts = np.unique(depth, return_counts=True)
        return metrics | {
            f"depth_{number}_accuracy": float(right[depth == number].mean()) for number in numbers[counts >= FEWEST]
        }

    def generated(self, *, sizes: tuple[int, int, int], seed: int, min_length: int, max_length: int) -> TaskData:
        """Splits of ``sizes`` from one stream of distinct trees."""
        grammar = {"max_depth": self.max_depth, "max_args": self.max_args}
        options = {"seed": seed, "min_length": min_length, "max_length": max_length, **grammar}
        total = sum(sizes)

        from tqdm import tqdm

        def make() -> dict[str, np.ndarray]:
            found = _distinct(total, seed, min_length, max_length, **grammar)
            trees = list(tqdm(found, total=total, file=sys.stderr, unit="tree", disable=None))
            return {**pack([ids for ids, _ in trees]), "labels": np.array([value for _, value in trees])}

        arrays = cached_arrays(f"listops-{key(count=total, version=1, **options)}.npz", make)
        rows = unpack({**arrays, "flat": arrays["flat"].astype(np.int32)})
        labels = arrays["labels"].astype(np.int64)
        ends = np.cumsum((0, *sizes))
        train, held_out, test = (Split(rows[a:b], labels[a:b]) for a, b in pairwise(ends))
        told = ", ".join(f"{name}={value}" for name, value in options.items())
        return TaskData(
            train=train,
            held_out=held_out,
            test=test,
            input=InputSpec("tokens", length=max_length - 1, size=len(SYMBOLS) + 1),
            output=OutputSpec("label", 10),
            source=f"generated:listops({told})",
            protocol=f"{self.name}: {min_length} < length < {max_length}, max_depth {self.max_depth},"
            f" max_args {self.max_args}, 15 symbols, no parentheses, no duplicates;"
            f" train / held out / test {sizes[0]} / {sizes[1]} / {sizes[2]}",
        )


@TASKS.register("listops")
class ListOps(ListOpsTask):
    """Long Range Arena's ListOps, its exact distribution: lengths 501..1999, up to 10 levels, up to 10 arguments.

    ``train``, ``held_out`` and ``test`` are numbers of samples, generated by ``seed``; the original is unseeded.
    """

    floors: ClassVar[tuple[str, ...]] = (
        "majority",
        "root-operator",
        "root-digits",
        "depth-1-reader",
        "depth-2-reader",
        "depth-3-reader",
        "logistic-regression",
    )
    max_depth, max_args = 10, 10

    def __init__(self, *, train: int = 96000, held_out: int = 2000, test: int = 2000, seed: int = 0) -> None:
        self.train, self.held_out, self.test, self.seed = train, held_out, test, seed
        check_sizes(train, held_out, test, seed)

    def load(self, data_dir: str | None = None) -> TaskData:
        sizes = (self.train, self.held_out, self.test)
        return self.generated(sizes=sizes, seed=self.seed, min_length=500, max_length=2000)
