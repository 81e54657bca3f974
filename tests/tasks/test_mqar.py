"""Multi-query associative recall: what a sequence holds, and how far apart queries are, as published."""

from __future__ import annotations

import numpy as np
import pytest

from neurons.errors import UsageError
from neurons.specs import IGNORE
from tasks.batches import BatchStream
from tasks.suites.mqar import Mqar, generate


@pytest.mark.parametrize("fill", ["random", "blank"])
@pytest.mark.parametrize("pairs", [4, 16])
def test_every_key_is_asked_once_and_its_value_is_the_target(fill: str, pairs: int) -> None:
    inputs, targets = generate(200, seed=3, pairs=pairs, length=80, vocabulary=300, fill=fill)  # type: ignore[arg-type]
    for x, y in zip(inputs, targets, strict=True):
        bound = {int(k): int(v) for k, v in zip(x[0 : 2 * pairs : 2], x[1 : 2 * pairs : 2], strict=True)}
        assert len(bound) == pairs
        assert all(2 <= key <= 150 < value < 300 for key, value in bound.items())
        asked = np.flatnonzero(y != IGNORE)
        assert (asked >= 2 * pairs).all()
        assert sorted(x[asked]) == sorted(bound)
        assert [bound[int(key)] for key in x[asked]] == y[asked].tolist()
        rest = np.delete(x, asked)[2 * pairs :]
        assert rest.min() >= 1
        assert (rest == 1).all() == (fill == "blank")
    assert inputs.max() < 300


def test_later_keys_are_asked_later() -> None:
    """The first of many draws without replacement is the nearest; mean places of key 1 and key 12, numpy's draws."""
    inputs, _ = generate(1000, seed=0, pairs=12, length=184, vocabulary=400, fill="blank")
    found = [[np.flatnonzero(x[24:] == x[2 * key])[0] // 2 for key in (0, 11)] for x in inputs]
    weight = np.arange(1, 81) ** (0.01 - 1.0)
    rng = np.random.default_rng(1)
    drawn = [rng.choice(80, 12, replace=False, p=weight / weight.sum())[[0, 11]] for _ in range(1000)]
    np.testing.assert_allclose(np.mean(found, 0), np.mean(drawn, 0), atol=3.5)
    assert np.mean(found, 0)[1] > np.mean(found, 0)[0] + 5


@pytest.mark.parametrize("power", [0.01, 1.0])
def test_gaps_follow_the_power_law_without_replacement(power: float) -> None:
    """Share of each place among the first key's queries: numpy's own draws without replacement."""
    pairs, space = 3, 10
    inputs, targets = generate(4000, seed=0, pairs=pairs, length=26, vocabulary=200, power=power, fill="blank")
    first = [int(np.flatnonzero(x[6:] == x[0])[0]) // 2 for x in inputs]
    weight = np.arange(1, space + 1) ** (power - 1.0)
    rng = np.random.default_rng(1)
    last = [int(np.flatnonzero(x[6:] == x[4])[0]) // 2 for x in inputs]
    drawn = np.array([rng.choice(space, pairs, replace=False, p=weight / weight.sum()) for _ in range(4000)])
    for found, wanted in ((first, drawn[:, 0]), (last, drawn[:, 2])):
        share = np.bincount(found, minlength=space) / 4000
        expected = np.bincount(wanted, minlength=space) / 4000
        assert np.abs(share - expected).max() < 0.035
    np.testing.assert_allclose(np.bincount(first, minlength=space) / 4000, weight / weight.sum(), atol=0.03)
    assert ((targets != IGNORE).sum(1) == pairs).all()


def test_the_tightest_length_asks_at_every_place() -> None:
    _, targets = generate(50, seed=0, pairs=8, length=32, vocabulary=64)
    assert ((targets != IGNORE) == (np.arange(32) >= 16) * (np.arange(32) % 2 == 0)).all()


def test_a_seed_is_a_list_and_sequences_are_distinct() -> None:
    few, many = (generate(count, seed=5, pairs=4, length=16, vocabulary=40) for count in (10, 1500))
    assert np.array_equal(few[0], many[0][:10])
    assert np.array_equal(few[1], many[1][:10])
    assert len(np.unique(many[0], axis=0)) == 1500
    assert not np.array_equal(few[0], generate(10, seed=6, pairs=4, length=16, vocabulary=40)[0])


def test_more_sequences_than_there_are_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"raise task\.vocabulary"):
        generate(10_000, seed=0, pairs=1, length=4, vocabulary=6, fill="blank")


def test_the_task_pads_with_zero_and_gives_targets_per_step() -> None:
    data = Mqar(pairs=4, vocabulary=64, train=40, held_out=10, test=10).load()
    assert data.input.length == 16
    assert data.output.kind == "token"
    batch = BatchStream(data.train, data.input, batch_size=8, seed=0).batch(0)
    assert batch.x.shape == batch.y.shape == (8, 16)
    assert ((batch.y != IGNORE).sum(1) == 4).all()
    assert (
        len({Mqar(pairs=4, vocabulary=64, train=40, held_out=10, test=10, seed=s).load().split_hash for s in (0, 1)})
        == 2
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 0}, "1 to 256"),
        ({"pairs": 300}, "1 to 256"),
        ({"pairs": 64, "length": 128}, "256 or more"),
        ({"pairs": 4, "length": 17}, "even"),
        ({"vocabulary": 256}, "exceed the length"),
        ({"power": 0.0}, r"task\.power=0\.01"),
        ({"fill": "blanks"}, "Did you mean 'blank'"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Mqar(**options)
