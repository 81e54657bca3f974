"""What a reader of ListOps gets who follows the brackets a few levels down and guesses below."""

from __future__ import annotations

from typing import Self

import numpy as np

from baselines import FLOORS
from baselines.floor import Floor
from tasks.suites.listops import OPERATORS, SYMBOLS, apply
from tasks.task import Split, TaskData

FIRST_OPERATOR, CLOSE = SYMBOLS.index(OPERATORS[0]) + 1, SYMBOLS.index("]") + 1  # ids
SUBTREES_OF = 4000  # training samples whose subtrees are counted
DRAWS = 400  # of each value that is not read


class _Reader(Floor):
    """Computes the ``levels`` outermost operators exactly and guesses below.

    A subtree that lies deeper has the values that subtrees of its operator, at the same depth, have in training: the
    answer is the root's most frequent value over ``DRAWS`` independent draws of them.
    """

    levels: int

    def fits(self, data: TaskData) -> str | None:
        return _not_listops(data, self.name) or super().fits(data)

    def fit(self, data: TaskData) -> Self:
        counts = np.zeros((len(SYMBOLS) + 1, 10), np.int64)
        for row in data.train.inputs[:SUBTREES_OF]:
            _count(row, self.levels, counts)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        self.below = np.cumsum(np.where(counts.any(1, keepdims=True), shares, 0.1), 1)  # distribution of the values
        return self

    def predict(self, split: Split) -> np.ndarray:
        rng = np.random.default_rng(0)
        values = [_values(row, self.levels, self.below, rng) for row in split.inputs]
        return np.array([np.bincount(one, minlength=10).argmax() for one in values], dtype=np.int64)


@FLOORS.register("depth-1-reader")
class Depth1Reader(_Reader):
    """The root operator applied to its children, each subtree a guess from its operator alone.

    About 60 % on Long Range Arena's ListOps: the plateau of the best published models.
    """

    levels = 1


@FLOORS.register("depth-2-reader")
class Depth2Reader(_Reader):
    """As depth-1-reader, with two exact levels: about 76 % on Long Range Arena's ListOps."""

    levels = 2


@FLOORS.register("depth-3-reader")
class Depth3Reader(_Reader):
    """As depth-1-reader, with three exact levels: about 86 % on Long Range Arena's ListOps."""

    levels = 3


def _not_listops(data: TaskData, name: str) -> str | None:
    if (data.input.kind, data.input.size) != ("tokens", len(SYMBOLS) + 1):
        return f"floor '{name}' reads ListOps' {len(SYMBOLS)} symbols"
    return None


def _count(row: np.ndarray, levels: int, counts: np.ndarray) -> None:
    """Adds the value of every operator of ``row`` below exactly ``levels`` others to ``counts`` (symbol, value)."""
    pending: list[tuple[int, list[int]]] = [(0, [])]
    for symbol in row.tolist():
        if symbol == CLOSE:
            operator, values = pending.pop()
            value = apply(SYMBOLS[operator - 1], values)
            pending[-1][1].append(value)
            if len(pending) == levels + 1:
                counts[operator, value] += 1
        elif symbol >= FIRST_OPERATOR:
            pending.append((symbol, []))
        else:
            pending[-1][1].append(symbol - 1)


def _values(row: np.ndarray, levels: int, below: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(DRAWS,) values of the root."""
    pending: list[tuple[int, list[np.ndarray]]] = [(0, [])]
    skipped = 0  # depth inside a subtree that is not read
    for symbol in row.tolist():
        if skipped:
            skipped += -1 if symbol == CLOSE else symbol >= FIRST_OPERATOR
        elif symbol == CLOSE:
            operator, children = pending.pop()
            pending[-1][1].append(_applied(SYMBOLS[operator - 1], np.array(children)))
        elif symbol >= FIRST_OPERATOR:
            if len(pending) > levels:
                pending[-1][1].append(np.searchsorted(below[symbol][:-1], rng.random(DRAWS), side="right"))
                skipped = 1
            else:
                pending.append((symbol, []))
        else:
            pending[-1][1].append(np.full(DRAWS, symbol - 1))
    return pending[0][1][0]


def _applied(operator: str, values: np.ndarray) -> np.ndarray:
    """``apply`` over the first axis of values (n, draws)."""
    if operator == "[MIN":
        return values.min(0)
    if operator == "[MAX":
        return values.max(0)
    if operator == "[SM":
        return values.sum(0) % 10
    middle = np.sort(values, axis=0)
    return (middle[(len(values) - 1) // 2] + middle[len(values) // 2]) // 2


@FLOORS.register("root-digits")
class RootDigits(Floor):
    """The most frequent training label given the root operator and, where that is MIN or MAX, the smallest or largest
    digit among its direct children. About 43 % on Long Range Arena's ListOps.
    """

    def fits(self, data: TaskData) -> str | None:
        return _not_listops(data, self.name) or super().fits(data)

    def fit(self, data: TaskData) -> Self:
        counts = np.zeros((len(SYMBOLS) + 1, 11, 10), np.int64)
        np.add.at(counts, (*_root(data.train), data.train.labels), 1)
        self.answers = np.where(counts.any(2), counts.argmax(2), counts.sum((0, 1)).argmax())
        return self

    def predict(self, split: Split) -> np.ndarray:
        return self.answers[_root(split)]


def _root(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Each sample's first symbol, and the extreme of its direct digits (10: it has none, or they do not tell)."""
    roots, extremes = [], []
    for row in split.inputs:
        ids = np.asarray(row)
        depth = np.cumsum((ids >= FIRST_OPERATOR).astype(int) - 2 * (ids == CLOSE))
        digits = ids[(depth == 1) & (ids < FIRST_OPERATOR)] - 1
        root = SYMBOLS[ids[0] - 1]
        choose = {"[MIN": np.min, "[MAX": np.max}.get(root)
        roots.append(int(ids[0]))
        extremes.append(int(choose(digits)) if choose is not None and len(digits) else 10)
    return np.array(roots), np.array(extremes)
