"""Batches: an order that is a pure function of (seed, i), and honest padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurons.specs import Batch, InputSpec
from tasks.batches import BatchStream, collate, evaluation_batches
from tasks.task import Split

TOKENS = InputSpec("tokens", length=40, size=100, pad=7)
FEATURES = InputSpec("features", length=3, size=2)


def ragged(count: int = 203) -> Split:
    rng = np.random.default_rng(1)
    rows = [rng.integers(10, 100, size=rng.integers(1, 40)).astype(np.int32) for _ in range(count)]
    return Split(rows, np.arange(count, dtype=np.int64))


def features(count: int = 50) -> Split:
    x = np.random.default_rng(1).random((count, 3, 2), dtype=np.float32)
    return Split(x, np.arange(count, dtype=np.int64))


def same(a: Batch, b: Batch) -> bool:
    masks = (a.mask is None and b.mask is None) or torch.equal(a.mask, b.mask)
    return torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and masks


def test_rows_are_padded_on_the_right() -> None:
    split = ragged()
    batch = collate(split, [5, 0, 9, 5], TOKENS)
    width = max(len(split.inputs[i]) for i in (5, 0, 9))
    assert batch.x.shape == (4, width)
    assert batch.x.dtype == torch.int64
    assert batch.y.tolist() == [5, 0, 9, 5]
    for row, i in enumerate((5, 0, 9, 5)):
        length = len(split.inputs[i])
        assert batch.x[row].tolist() == [*split.inputs[i].tolist(), *[7] * (width - length)]
        assert batch.mask[row].tolist() == [place < length for place in range(width)]


def test_features_have_no_mask() -> None:
    split = features()
    batch = collate(split, np.array([4, 2]), FEATURES)
    np.testing.assert_array_equal(batch.x.numpy(), split.inputs[[4, 2]])
    assert batch.x.dtype == torch.float32
    assert batch.mask is None


@pytest.mark.parametrize(("split", "input"), [(ragged(), TOKENS), (features(), FEATURES)])
def test_a_batch_depends_on_seed_and_number_alone(split: Split, input: InputSpec) -> None:
    straight = BatchStream(split, input, batch_size=8, seed=3)
    many = 2 * straight.steps_per_epoch + 3
    in_order = [straight.batch(i) for i in range(many)]
    jumping = BatchStream(split, input, batch_size=8, seed=3)
    for i in np.random.default_rng(0).permutation(many):
        assert same(jumping.batch(int(i)), in_order[i])
        assert same(collate(split, jumping.indices(int(i)), input), in_order[i])
    other = BatchStream(split, input, batch_size=8, seed=4)
    assert not all(np.array_equal(other.indices(i), straight.indices(i)) for i in range(3))


@pytest.mark.parametrize("size", [1, 8, 203, 500])
def test_each_epoch_visits_every_row_once(size: int) -> None:
    stream = BatchStream(ragged(), TOKENS, batch_size=size, seed=0)
    assert stream.steps_per_epoch == -(-203 // size)
    epochs = []
    for epoch in range(3):
        steps = range(epoch * stream.steps_per_epoch, (epoch + 1) * stream.steps_per_epoch)
        batches = [stream.batch(i) for i in steps]
        assert max(len(batch) for batch in batches) <= size
        epochs.append([int(y) for batch in batches for y in batch.y])
        assert sorted(epochs[-1]) == list(range(203))
    assert epochs[0] != epochs[1] != epochs[2]


def test_little_is_padded_and_short_rows_do_not_come_first() -> None:
    split = ragged(4000)
    stream = BatchStream(split, TOKENS, batch_size=16, seed=0)
    masks = [stream.batch(i).mask for i in range(stream.steps_per_epoch)]
    filled = sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    assert filled > 0.9  # rows of 1..39 in random batches of 16 fill 0.54
    widths = np.array([mask.shape[1] for mask in masks])
    assert np.mean(np.diff(widths) < 0) > 0.3


@pytest.mark.parametrize(("split", "input"), [(ragged(), TOKENS), (features(), FEATURES)])
def test_evaluation_visits_every_row_once_with_its_number(split: Split, input: InputSpec) -> None:
    seen = []
    widths = []
    for indices, batch in evaluation_batches(split, input, 16):
        assert same(batch, collate(split, indices, input))
        widths.append(batch.x.shape[1])
        seen += indices.tolist()
    assert sorted(seen) == list(range(len(split)))
    assert widths == sorted(widths)


def test_pairs_are_padded_each_behind_its_own_end_and_stay_together() -> None:
    rng = np.random.default_rng(4)
    lengths = rng.integers(1, 30, (50, 2))
    rows = []
    for pair in lengths:
        row = np.full((2, pair.max()), 7, np.int32)
        for sequence, length in zip(row, pair, strict=True):
            sequence[:length] = rng.integers(10, 100, length)
        rows.append(row)
    split, input = Split(rows, np.arange(50)), InputSpec("tokens", length=30, size=100, pad=7, pair=True)
    stream = BatchStream(split, input, batch_size=8, seed=0)
    batches = [collate(split, [4, 9, 2], input), stream.batch(0), *(b for _, b in evaluation_batches(split, input, 8))]
    for batch in batches:
        widest = int(lengths[batch.y.numpy()].max())
        assert batch.x.shape == batch.mask.shape == (len(batch), 2, widest)
        for x, mask, y in zip(batch.x, batch.mask, batch.y.tolist(), strict=True):
            for which in (0, 1):
                length = lengths[y, which]
                assert x[which].tolist() == [*rows[y][which, :length].tolist(), *[7] * (widest - length)]
                assert int(mask[which].sum()) == length
    assert sorted(int(y) for _, b in evaluation_batches(split, input, 8) for y in b.y) == list(range(50))


def test_pairs_of_features_are_rows_of_two() -> None:
    x = np.random.default_rng(1).random((6, 2, 3, 4), dtype=np.float32)
    batch = collate(Split(x, np.arange(6)), [5, 1], InputSpec("features", length=3, size=4, pair=True))
    np.testing.assert_array_equal(batch.x.numpy(), x[[5, 1]])
