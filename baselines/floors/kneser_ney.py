"""Interpolated n-grams with modified Kneser-Ney smoothing: the best that counting alone does on running text.

    p_k(w | h) = max(a(hw) - D(a(hw)), 0) / A(h)  +  gamma(h) p_{k-1}(w | h'),   A(h) = sum_w a(hw),   |h| = k - 1

h' is h without its first symbol. a is the count of the k-gram at the highest order; below it, the number of different
symbols that stand before it. gamma(h) = (D1 N1(h) + D2 N2(h) + D3 N3+(h)) / A(h), N the number of symbols behind h seen
once, twice and more often, returns what the discounts took. p_0 is uniform. With n_r the number of k-grams of a = r and
Y = n1 / (n1 + 2 n2): D1 = 1 - 2 Y n2 / n1, D2 = 2 - 3 Y n3 / n2, D3 = 3 - 4 Y n4 / n3 (Chen & Goodman 1998).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from baselines import FLOORS
from baselines.floor import TextFloor
from neurons.errors import UsageError
from tasks.language import stream
from tasks.task import Split, TaskData

ORDERS = (3, 4, 5, 6)
FALLBACK = np.array([0.0, 0.5, 1.0, 1.5])  # discounts where a text is too small or too odd to tell them


@dataclass(frozen=True)
class Grams:
    """The distinct k-grams of a text: ``keys`` (n,) ascending, key = id of the first k - 1 symbols * V + last symbol;
    ``counts`` how often they occur; ``shorter`` (n,) the id of each without its first symbol, at order k - 1."""

    keys: np.ndarray
    counts: np.ndarray
    shorter: np.ndarray


@dataclass(frozen=True)
class Order:
    """What order k knows: ``gain`` (n,) of each k-gram, max(a - D, 0) / A, and ``rest`` of each context, its gamma."""

    gain: np.ndarray
    rest: np.ndarray


@FLOORS.register("kneser-ney")
class KneserNey(TextFloor):
    """N-grams of ``order`` 3 to 6 with modified Kneser-Ney smoothing, interpolated.

    ``order`` None is the one of these that is best on held-out text. Counted on the whole training text, however little
    of it a model has seen. Chen & Goodman 1998.
    """

    def __init__(self, *, order: int | None = None) -> None:
        self.order = order
        if order is not None and order not in ORDERS:
            raise UsageError(f"kneser-ney takes an order of 3 to 6, not {order}. Try: order=5")

    def fit(self, data: TaskData) -> Self:
        self.size = data.output.size
        orders = ORDERS if self.order is None else (self.order,)
        self.grams = count(stream(data.train), self.size, max(orders))
        # below its own, every order is the same model: only the highest counts occurrences
        lower = [
            self._order(k, continuations(self.grams[k + 1], len(self.grams[k].keys))) for k in range(max(orders) - 1)
        ]
        candidates = {n: [*lower[: n - 1], self._order(n - 1, self.grams[n - 1].counts)] for n in orders}
        held_out, found = stream(data.held_out), {}
        for n, self.orders in candidates.items():
            found[n] = self.log_probabilities(held_out).sum() if len(orders) > 1 else 0.0
        self.chosen = max(found, key=lambda n: found[n])
        self.orders = candidates[self.chosen]
        return self

    def _order(self, k: int, counts: np.ndarray) -> Order:
        """The order of the (k + 1)-grams, with adjusted ``counts``."""
        contexts = len(self.grams[k - 1].keys) if k else 1
        return smoothed(self.grams[k].keys // (self.size + 1), counts, contexts)

    def log_likelihood(self, split: Split) -> float:
        return float(self.log_probabilities(stream(split)).sum())

    def log_probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """(N - 1,) log p of each of ``tokens`` (N,) but the first, given those before it, in nats."""
        targets = tokens[1:]
        p = np.full(len(targets), 1.0 / (self.size - 1))  # every symbol but padding
        context = np.zeros(len(tokens), dtype=np.int64)  # id of the last k symbols up to each place, -1 if never seen
        for k, order in enumerate(self.orders):
            known = context[:-1] >= 0
            gram = self._find(k, context[:-1], targets)
            rest = np.where(known, order.rest[np.maximum(context[:-1], 0)], 1.0)
            p = np.where(gram >= 0, order.gain[np.maximum(gram, 0)], 0.0) + rest * p
            before = -1 if k else self._find(0, np.zeros(1, np.int64), tokens[:1])[0]
            context = np.concatenate([[before], gram])
        return np.log(p)

    def _find(self, k: int, context: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Ids of the (k + 1)-grams ``context`` then ``last``, -1 where unknown."""
        keys = self.grams[k].keys
        wanted = np.where(context >= 0, context * (self.size + 1) + last, -1)
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[place] == wanted, place, -1)


def count(tokens: np.ndarray, size: int, highest: int) -> list[Grams]:
    """Distinct 1- to ``highest``-grams that end at a symbol of ``tokens`` (N,), whose ids are below ``size``.

    Before the text stands a border symbol, as often as needed, so that every gram has something before it.
    """
    padded = np.concatenate([[size], tokens])
    found: list[Grams] = []
    ids = np.zeros(len(padded), dtype=np.int64)  # of the gram that ends at each place; there is one of no symbols
    for _ in range(highest):
        before = np.concatenate([ids[:1], ids[:-1]])  # before the border is the border
        keys, inverse, counts = np.unique(before * (size + 1) + padded, return_inverse=True, return_counts=True)
        counts[inverse[0]] -= 1  # the border itself is no event
        shorter = np.empty(len(keys), dtype=np.int64)
        shorter[inverse] = ids
        found.append(Grams(keys, counts, shorter))
        ids = inverse
    return found


def continuations(longer: Grams, count: int) -> np.ndarray:
    """(count,) for each gram the number of different symbols before it, by the grams that are one symbol longer."""
    return np.bincount(longer.shorter[longer.counts > 0], minlength=count)


def discounts(counts: np.ndarray) -> np.ndarray:
    """(4,) D of a count of 0, 1, 2 and 3 or more; each above 0, so that no symbol is impossible."""
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(float)
    if (n[1:5] == 0).any():
        return FALLBACK
    y = n[1] / (n[1] + 2 * n[2])
    found = np.array([0.0] + [r - (r + 1) * y * n[r + 1] / n[r] for r in (1, 2, 3)])
    return found if (found[1:] > 0).all() else FALLBACK


def smoothed(context: np.ndarray, counts: np.ndarray, contexts: int) -> Order:
    """The order whose grams have these adjusted ``counts`` and stand behind ``context`` (n,), of ``contexts`` ids."""
    take = discounts(counts)[np.minimum(counts, 3)]
    total = np.bincount(context, weights=counts, minlength=contexts)
    behind = np.maximum(total, 1)
    rest = np.where(total > 0, np.bincount(context, weights=take, minlength=contexts) / behind, 1.0)
    return Order((counts - take) / behind[context], rest)
