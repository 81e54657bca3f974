"""Recursive least squares as fast weights: against numpy's weighted least squares, the recursion, and in pieces."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from neurons.ops.fast_weights_recurrent import rls_recurrent
from neurons.ops.fast_weights_rls import rls_chunked

FORMS = {"recurrent": rls_recurrent, "chunked": rls_chunked}
RATE = torch.tensor(0.05, dtype=torch.float64)


def sequence(steps, *, seed=0, batch=2, heads=2, width=6, out=5):
    g = torch.Generator().manual_seed(seed)

    def normal(size):
        return torch.randn(batch, heads, steps, size, dtype=torch.float64, generator=g)

    return F.normalize(normal(width), dim=-1), normal(out), normal(width)


def assert_near(got, expected, tolerance=1e-10):
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance * max(1.0, expected.abs().max().item()))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("before", [False, True])
def test_is_weighted_least_squares_with_a_discounted_ridge(form, before):
    """Within one period: rows k_s weighted by lambda^((t - s) / 2), and sqrt(ridge lambda^t) I against zero."""
    key, value, query = sequence(20, batch=1, heads=1)
    y, _ = FORMS[form](key, value, query, rate=RATE, ridge=0.3, before=before)
    k, v, q = (x[0, 0].numpy() for x in (key, value, query))
    for t in range(20):
        known = t if before else t + 1
        weight = np.exp(-RATE.item() * (known - 1 - np.arange(known)) / 2)[:, None]
        floor = math.sqrt(0.3 * math.exp(-RATE.item() * known)) * np.eye(6)
        rows, wanted = np.vstack([weight * k[:known], floor]), np.vstack([weight * v[:known], np.zeros((6, 5))])
        expected = q[t] @ np.linalg.lstsq(rows, wanted, rcond=None)[0]
        np.testing.assert_allclose(y[0, 0, t].numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_the_ridge_is_renewed_every_period(form):
    """Without keys only the ridge is left: worn by lambda a step, whole again after each period."""
    silent = torch.zeros(1, 1, 20, 3).double()
    for steps, age in ((5, 5), (8, 0), (15, 7), (16, 0)):
        part = silent[:, :, :steps]
        _, state = FORMS[form](part, part, rate=RATE, ridge=0.3, period=8)
        expected = 0.3 * math.exp(-RATE.item() * age)
        assert_near(state.precision[0, 0], expected * torch.eye(3).double())
        assert state.phase.tolist() == [age]


@pytest.mark.parametrize("steps", [1, 7, 64, 150])
@pytest.mark.parametrize("carried", [False, True], ids=["fresh", "carried"])
@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_chunks_equal_the_recurrence(steps, carried, masked, before):
    key, value, query = sequence(steps)
    g = torch.Generator().manual_seed(1)
    state = None
    if carried:  # rows that are at different places of their period
        state = rls_recurrent(*sequence(90, seed=2), rate=RATE, mask=torch.rand(2, 90, generator=g) < 0.8)[1]
    mask = torch.rand(2, steps, generator=g) < 0.7 if masked else None
    for asked in (query, None):
        options = {"rate": RATE, "before": before, "mask": mask, "state": state}
        exact, end = rls_recurrent(key, value, asked, **options)
        fast, final = rls_chunked(key, value, asked, **options)
        assert_near(fast, exact)
        assert_near(final.precision, end.precision)
        assert_near(final.cross, end.cross)
        assert torch.equal(final.phase, end.phase)


@pytest.mark.parametrize("steps", [5, 11])
@pytest.mark.parametrize("asked", [False, True])
def test_gradients_equal_those_of_the_recurrence(steps, asked):
    key, value, query = sequence(steps)
    mask = torch.ones(2, steps, dtype=torch.bool)
    mask[1, 3:] = False
    leaves = [x.requires_grad_() for x in ((key, value, query) if asked else (key, value))]

    def run(form):
        y, final = form(*leaves, rate=RATE, period=4, mask=mask, before=not asked)
        return (y.sin().sum() + final.weights().cos().sum(),)

    expected = torch.autograd.grad(run(rls_recurrent), leaves)
    torch.testing.assert_close(torch.autograd.grad(run(rls_chunked), leaves), expected, rtol=1e-8, atol=1e-9)


def test_gradcheck():
    leaves = [x.requires_grad_() for x in sequence(5, batch=1, heads=1, width=2, out=2)]
    assert torch.autograd.gradcheck(lambda *x: rls_chunked(*x, rate=RATE, period=3)[0], leaves)


def test_a_stream_of_pieces_equals_the_whole():
    inputs = sequence(150)
    whole, final = rls_chunked(*inputs, rate=RATE)
    state, pieces = None, []
    for start, stop in itertools.pairwise([0, 1, 30, 97, 150]):
        y, state = rls_chunked(*(x[:, :, start:stop] for x in inputs), rate=RATE, state=state)
        pieces.append(y)
    assert_near(torch.cat(pieces, 2), whole)
    assert_near(state.weights(), final.weights())


def test_padding_anywhere_changes_nothing():
    inputs = sequence(70)
    bare, final = rls_chunked(*inputs, rate=RATE)
    real = torch.rand(150, generator=torch.Generator().manual_seed(2)).argsort()[:70].sort().values
    padded = [torch.randn(*x.shape[:2], 150, x.shape[-1]).double() for x in inputs]
    for wide, x in zip(padded, inputs, strict=True):
        wide[:, :, real] = x
    mask = torch.zeros(2, 150, dtype=torch.bool)
    mask[:, real] = True
    y, end = rls_chunked(*padded, rate=RATE, mask=mask)
    assert_near(y[:, :, real], bare)
    assert_near(end.weights(), final.weights())
    assert (y[:, :, ~mask[0]] == 0).all()


def test_the_past_is_blind_to_the_future():
    inputs = sequence(130)
    changed = [torch.cat([x[:, :, :77], torch.randn_like(x[:, :, 77:])], 2) for x in inputs]
    first, second = (rls_chunked(*x, rate=RATE)[0] for x in (inputs, changed))
    torch.testing.assert_close(first[:, :, :77], second[:, :, :77], rtol=0, atol=1e-12)
    assert (first[:, :, 77] - second[:, :, 77]).abs().max() > 0.1


@pytest.mark.parametrize("discount", [0.95, 0.99])
def test_float32_stays_with_float64_for_10000_steps_of_one_key(discount):
    """Where no key comes P would reach .95^-10000 = 10^222; the bound is lambda^-64 / ridge."""
    key, value, _ = sequence(10_000, batch=1, heads=1, width=64, out=8)
    key[:, :, 64:] = key[:, :, :1]
    rate = -torch.tensor(discount, dtype=torch.float64).log()
    exact, end = rls_chunked(key, value, rate=rate)
    rough, _ = rls_chunked(key.float(), value.float(), rate=rate)
    assert (rough - exact).abs().max() < 1e-4 * exact.abs().max()
    largest = torch.linalg.eigvalsh(end.precision).min().reciprocal().item()
    assert 500 < largest < discount**-64 / 0.001
