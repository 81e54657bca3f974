"""Kneser-Ney and unigram against counting by hand: dictionaries, one context at a time."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from baselines import FLOORS
from baselines.floors.kneser_ney import discounts
from neurons.errors import UsageError
from neurons.specs import InputSpec, OutputSpec
from tasks.codec import Bytes
from tasks.language import TextData, windows
from tasks.metrics import TextCounts
from tasks.task import Split, TaskData

SIZE = 6  # padding and five symbols


def text(length: int, seed: int) -> np.ndarray:
    """Symbols 1 .. 5 with a memory: the next one is mostly among the two behind the last."""
    rng = np.random.default_rng(seed)
    found = [1]
    for _ in range(length - 1):
        found.append(int((found[-1] + rng.choice([0, 1, 3], p=[0.7, 0.2, 0.1])) % 4 + 1))
    found[length // 2] = 5
    return np.array(found)


def split(tokens: np.ndarray) -> Split:
    inputs, targets = windows(tokens, context=16, stride=16)
    return Split(inputs, targets, counts=TextCounts(len(tokens) - 1, 1))


def data(train: np.ndarray, held_out: np.ndarray, test: np.ndarray) -> TaskData:
    parts = (split(train), split(held_out), split(test))
    tokens = InputSpec("tokens", length=16, size=SIZE, pad=0)
    return TextData(*parts, tokens, OutputSpec("token", SIZE), "made up", "", codec=Bytes())


class ByHand:
    """Modified Kneser-Ney from its definition: Chen & Goodman 1998, section 3."""

    def __init__(self, tokens: list[int], order: int) -> None:
        self.order = order
        padded = ["border"] * order + tokens
        self.counts: list[Counter] = []
        for k in range(1, order + 1):
            grams = [tuple(padded[i - k + 1 : i + 1]) for i in range(order, len(padded))]
            if k == order:
                self.counts.append(Counter(grams))
            else:
                before = defaultdict(set)
                for i, gram in zip(range(order, len(padded)), grams, strict=True):
                    before[gram].add(padded[i - k])
                self.counts.append(Counter({gram: len(those) for gram, those in before.items()}))

    def discount(self, k: int, count: int) -> float:
        n = Counter(self.counts[k - 1].values())
        if not all(n[r] for r in (1, 2, 3, 4)):
            return [0, 0.5, 1.0, 1.5][min(count, 3)]
        y = n[1] / (n[1] + 2 * n[2])
        found = [0, *(r - (r + 1) * y * n[r + 1] / n[r] for r in (1, 2, 3))]
        return found[min(count, 3)] if min(found[1:]) > 0 else [0, 0.5, 1.0, 1.5][min(count, 3)]

    def probability(self, word: int, history: tuple) -> float:
        if len(history) + 1 > self.order:
            return self.probability(word, history[-(self.order - 1) :])
        k = len(history) + 1
        followers = {gram[-1]: c for gram, c in self.counts[k - 1].items() if gram[:-1] == history}
        lower = self.probability(word, history[1:]) if history else 1 / (SIZE - 1)
        if not followers:
            return lower
        total = sum(followers.values())
        taken = sum(self.discount(k, c) for c in followers.values())
        mine = followers.get(word, 0)
        left = mine - self.discount(k, mine) if mine else 0.0
        return left / total + taken / total * lower


@pytest.mark.parametrize(("order", "length"), [(3, 400), (4, 150), (5, 400), (6, 60), (3, 12)])
def test_kneser_ney_is_its_definition(order, length):
    train, test = text(length, 0), text(80, 1)
    floor = FLOORS.build("kneser-ney", order=order).fit(data(train, test, test))
    by_hand = ByHand(train.tolist(), order)
    wanted = [math.log(by_hand.probability(int(test[i]), tuple(test[:i].tolist()))) for i in range(1, len(test))]
    np.testing.assert_allclose(floor.log_probabilities(test), wanted, atol=1e-12)
    assert floor.log_likelihood(split(test)) == pytest.approx(sum(wanted))


@pytest.mark.parametrize("name", ["unigram", "kneser-ney"])
def test_probabilities_sum_to_one_behind_every_context(name):
    train = text(500, 0)
    floor = FLOORS.build(name).fit(data(train, text(100, 1), text(100, 2)))
    for start in range(20):
        history = text(6, start)
        history[start % 6] = 5  # rare: most of these contexts were never seen
        both = [np.exp(floor.log_likelihood(split(np.append(history, word)))) for word in range(1, SIZE)]
        alone = np.exp(floor.log_likelihood(split(history)))
        assert sum(both) / alone == pytest.approx(1.0, abs=1e-12)


def test_the_order_is_chosen_on_held_out_text_and_never_on_the_test():
    train, held_out = text(400, 0), text(200, 1)
    chosen = FLOORS.build("kneser-ney").fit(data(train, held_out, held_out))
    found = {n: FLOORS.build("kneser-ney", order=n).fit(data(train, held_out, train)) for n in (3, 4, 5, 6)}
    best = max(found, key=lambda n: found[n].log_probabilities(held_out).sum())
    assert chosen.chosen == best
    assert (chosen.log_probabilities(held_out) == found[best].log_probabilities(held_out)).all()


def test_unigram_counts():
    floor = FLOORS.build("unigram").fit(data(np.array([1, 1, 1, 2]), text(9, 0), text(9, 0)))
    # one is added to each of five symbols
    assert floor.log_likelihood(split(np.array([2, 1, 3]))) == pytest.approx(math.log(4 / 9 * 1 / 9))


def test_a_floor_is_scored_by_the_primary_metric_of_the_task():
    from tasks import TASKS

    train, test = text(400, 0), text(80, 1)
    made = data(train, test, test)
    floor = FLOORS.build("kneser-ney").fit(made)
    nats = -floor.log_probabilities(test).sum()
    assert floor.score(TASKS.build("stdlib"), made.test) == pytest.approx(nats / math.log(2) / 79)


def test_discounts():
    y = 50 / (50 + 2 * 20)
    wanted = [0, 1 - 2 * y * 20 / 50, 2 - 3 * y * 10 / 20, 3 - 4 * y * 5 / 10]
    assert discounts(np.repeat([1, 2, 3, 4, 9], [50, 20, 10, 5, 7])) == pytest.approx(wanted)
    for few_or_odd in ([1, 1, 2], [1] * 90 + [2] + [3] * 90 + [4] * 80):
        assert discounts(np.array(few_or_odd)).tolist() == [0, 0.5, 1, 1.5]


def test_an_order_out_of_range_and_data_that_is_no_text_are_told():
    with pytest.raises(UsageError, match="3 to 6"):
        FLOORS.build("kneser-ney", order=9)
    from tasks import TASKS

    assert "running text" in FLOORS.build("kneser-ney").fits(TASKS.build("digits").load())
