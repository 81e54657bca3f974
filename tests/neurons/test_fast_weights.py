"""Fast weights: against closed forms, the recurrence, and the published one-pass recall figures."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from neurons.ops.fast_weights import chunked, decay_rate
from neurons.ops.fast_weights_recurrent import recurrent

FORMS = {"recurrent": recurrent, "chunked": chunked}


def sequence(steps, *, dtype=torch.float64, scales=2, seed=0, batch=2, heads=2, width=6, out=5):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=g).to(dtype)

    inputs = {
        "key": F.normalize(normal(batch, heads, steps, width), dim=-1),
        "value": normal(batch, heads, steps, out),
        "query": normal(batch, heads, steps, width),
    }
    scale = {
        "rate": torch.tensor([0.05, 0.001, 1e-8], dtype=torch.float64)[:scales],
        "write": torch.tensor([0.6, 0.5, 0.3]).to(dtype)[:scales],
        "read": torch.tensor([0.9, 0.7, 0.4]).to(dtype)[:scales],
    }
    return inputs, scale, normal(scales, batch, heads, width, out)


def test_hebb_is_the_double_sum_over_past_writes():
    inputs, scale, _ = sequence(9)
    k, v, q = (inputs[name].numpy() for name in ("key", "value", "query"))
    rate, eta, a = (scale[name].numpy() for name in ("rate", "write", "read"))
    expected = np.zeros_like(v)
    for t, s in itertools.product(range(9), range(9)):
        if s <= t:
            weight = (a * eta * np.exp(-rate * (t - s))).sum()
            expected[:, :, t] += weight * (q[:, :, t] * k[:, :, s]).sum(-1, keepdims=True) * v[:, :, s]
    for form in FORMS.values():
        np.testing.assert_allclose(form(**inputs, **scale)[0].numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_delta_binds_exactly_what_was_written_last(form):
    """With a unit key and sum a eta = 1 the read after a write is the value, whatever the memory held."""
    inputs, scale, state = sequence(70, scales=1)
    one = {"rate": scale["rate"], "write": torch.ones(1).double(), "read": torch.ones(1).double()}
    y, _ = FORMS[form](inputs["key"], inputs["value"], rule="delta", state=state, **one)
    torch.testing.assert_close(y, inputs["value"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rule", ["hebb", "delta"])
@pytest.mark.parametrize("steps", [1, 7, 64, 150])
@pytest.mark.parametrize("carried", [False, True], ids=["fresh", "carried"])
@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_chunks_equal_the_recurrence(rule, steps, carried, masked, before):
    inputs, scale, state = sequence(steps, scales=3)
    options = {
        "rule": rule,
        "before": before,
        "state": state if carried else None,
        "mask": torch.rand(2, steps, generator=torch.Generator().manual_seed(1)) < 0.7 if masked else None,
    }
    for query in (inputs["query"], None):
        exact = recurrent(inputs["key"], inputs["value"], query, **scale, **options)
        fast = chunked(inputs["key"], inputs["value"], query, **scale, **options)
        for got, expected in zip(fast, exact, strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12 * max(1, expected.abs().max().item()))


@pytest.mark.parametrize("rule", ["hebb", "delta"])
@pytest.mark.parametrize("steps", [20, 150])
@pytest.mark.parametrize("carried", [False, True])
def test_without_the_final_state_the_answers_are_the_same(rule, steps, carried):
    inputs, scale, state = sequence(steps)
    options = {"rule": rule, "before": True, "state": state if carried else None}
    whole, end = chunked(**inputs, **scale, **options)
    spared, none = chunked(**inputs, **scale, **options, final=False)
    assert torch.equal(spared, whole)
    assert end is not None
    assert none is None


@pytest.mark.parametrize("rule", ["hebb", "delta"])
def test_float32_chunks_are_within_1e6_of_the_float64_recurrence(rule):
    inputs, scale, _ = sequence(150, dtype=torch.float32, batch=1, heads=1, width=32, out=32)
    double = {name: x.double() for name, x in (inputs | scale).items()}
    exact, _ = recurrent(**double, rule=rule)
    fast, _ = chunked(**inputs, **scale, rule=rule)
    assert ((fast - exact).abs().max() / exact.abs().max()).item() < 1e-6


@pytest.mark.parametrize("rule", ["hebb", "delta"])
@pytest.mark.parametrize("steps", [5, 11])
def test_gradients_equal_those_of_the_recurrence(rule, steps):
    inputs, scale, state = sequence(steps)
    mask = torch.ones(2, steps, dtype=torch.bool)
    mask[1, 3:] = False
    names = ["key", "value", "query"]
    leaves = [x.requires_grad_() for x in (*(inputs[n] for n in names), scale["write"], scale["read"], state)]

    def run(form, **options):
        y, final = form(
            *leaves[:3],
            rate=scale["rate"],
            write=leaves[3],
            read=leaves[4],
            rule=rule,
            mask=mask,
            state=leaves[5],
            **options,
        )
        return (y.sin().sum() + final.cos().sum(),)

    got = torch.autograd.grad(run(chunked, chunk=4), leaves)
    torch.testing.assert_close(got, torch.autograd.grad(run(recurrent), leaves), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rule", ["hebb", "delta"])
def test_gradcheck(rule):
    inputs, scale, _ = sequence(5, batch=1, heads=1, width=2, out=2)
    leaves = [inputs[n].requires_grad_() for n in ("key", "value", "query")]
    assert torch.autograd.gradcheck(lambda *x: chunked(*x, **scale, rule=rule, chunk=3), leaves)


@pytest.mark.parametrize("rule", ["hebb", "delta"])
def test_a_stream_of_pieces_equals_the_whole(rule):
    inputs, scale, _ = sequence(100)
    whole, final = chunked(**inputs, **scale, rule=rule)
    state, pieces = None, []
    for start, stop in itertools.pairwise([0, 1, 30, 97, 100]):
        piece = {name: x[:, :, start:stop] for name, x in inputs.items()}
        y, state = chunked(**piece, **scale, rule=rule, state=state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 2), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, final, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", ["hebb", "delta"])
def test_padding_anywhere_changes_nothing(form, rule):
    inputs, scale, _ = sequence(40)
    bare, final = FORMS[form](**inputs, **scale, rule=rule)
    real = torch.rand(90, generator=torch.Generator().manual_seed(2)).argsort()[:40].sort().values
    padded = {name: torch.randn(*x.shape[:2], 90, x.shape[-1]).double() for name, x in inputs.items()}
    for name, x in inputs.items():
        padded[name][:, :, real] = x
    mask = torch.zeros(2, 90, dtype=torch.bool)
    mask[:, real] = True
    y, end = FORMS[form](**padded, **scale, rule=rule, mask=mask)
    torch.testing.assert_close(y[:, :, real], bare, rtol=0, atol=1e-12)
    torch.testing.assert_close(end, final, rtol=0, atol=1e-12)
    assert (y[:, :, ~mask[0]] == 0).all()


@pytest.mark.parametrize("rule", ["hebb", "delta"])
def test_the_past_is_blind_to_the_future(rule):
    inputs, scale, _ = sequence(130)
    changed = {name: torch.cat([x[:, :, :77], torch.randn_like(x[:, :, 77:])], 2) for name, x in inputs.items()}
    first, second = (chunked(**x, **scale, rule=rule)[0] for x in (inputs, changed))
    torch.testing.assert_close(first[:, :, :77], second[:, :, :77], rtol=0, atol=1e-12)
    assert (first[:, :, 77] - second[:, :, 77]).abs().max() > 0.1


def test_decay_is_exact_where_float32_has_no_decay_at_all():
    rate = decay_rate(0.001, 100_000.0)
    assert torch.exp(-rate).float().item() == 1.0  # the trap
    assert torch.exp(-decay_rate(0.001, 1000.0)).bfloat16().item() == 1.0
    silent = torch.zeros(1, 1, 16_000, 2)
    options = {"rate": rate.view(1), "write": torch.ones(1), "read": torch.ones(1)}
    _, slow = chunked(silent, silent, state=torch.ones(1, 1, 1, 2, 2).double(), **options)
    assert slow.dtype == torch.float64
    assert slow[0, 0, 0, 0, 0].item() == pytest.approx(math.exp(-16 / 100_000), rel=1e-13)
    options["rate"] = decay_rate(0.001, 1000.0).view(1)
    _, medium = chunked(silent, silent, state=torch.ones(1, 1, 1, 2, 2).double(), **options)
    assert medium[0, 0, 0, 0, 0].item() == pytest.approx(math.exp(-16 / 1000), rel=1e-13)  # keeps 98.4 %


def test_decay_never_overshoots_however_long_the_step():
    """Explicit Euler with dt = 10 tau multiplies by -9 at every step."""
    key = torch.zeros(1, 1, 200, 2).double()
    options = {"rate": decay_rate(1.0, 0.1).view(1), "write": torch.ones(1), "read": torch.ones(1)}
    for form in FORMS.values():
        _, state = form(key, key, state=torch.ones(1, 1, 1, 2, 2).double(), **options)
        assert 0 <= state.max().item() < 1e-300


@pytest.mark.parametrize(("strength", "bounded"), [(0.1, True), (1.9, True), (2.1, False)])
def test_delta_is_stable_for_write_strengths_below_two(strength, bounded):
    key = torch.zeros(1, 1, 400, 4).double()
    key[..., 0] = 1
    options = {
        "rate": torch.zeros(1).double(),
        "write": torch.tensor([strength]).double(),
        "read": torch.ones(1).double(),
    }
    y, _ = chunked(key, torch.ones_like(key), rule="delta", **options)
    assert (y.abs().max().item() <= 2) == bounded


def recall(rule, *, pairs, rebind=False, leak=1.0, correlated=False, trials=30, width=64):
    """Part of the keys whose read after one pass has its largest product with their last value; eta = 0.5."""
    g = torch.Generator().manual_seed(0)
    key = torch.randn(trials, 1, pairs, width, generator=g)
    if correlated:
        key = key + torch.randn(trials, 1, 1, width, generator=g)  # common cosine of one half
    key = F.normalize(key, dim=-1)
    value = torch.randn(trials, 1, pairs * (2 if rebind else 1), width, generator=g)
    written = torch.cat([key, key], 2) if rebind else key
    options = {"rate": torch.tensor([-math.log(leak)]).double(), "write": torch.tensor([0.5]), "read": torch.ones(1)}
    _, state = chunked(written, value, rule=rule, **options)
    nearest = ((key @ state[0]) @ value.transpose(-1, -2)).argmax(-1)
    wanted = torch.arange(pairs) + (pairs if rebind else 0)
    return (nearest == wanted).float().mean().item()


@pytest.mark.parametrize(
    ("rule", "options", "published"),
    [
        ("hebb", {"pairs": 64}, 0.995),
        ("delta", {"pairs": 64}, 0.979),
        ("hebb", {"pairs": 32, "rebind": True}, 0.528),
        ("hebb", {"pairs": 32, "rebind": True, "leak": 0.95}, 0.927),
        ("delta", {"pairs": 32, "rebind": True}, 0.994),
    ],
)
def test_one_pass_recall_is_the_measured_one(rule, options, published):
    assert recall(rule, **options) == pytest.approx(published, abs=0.03)


def test_delta_beats_hebb_on_correlated_keys():
    assert recall("delta", pairs=32, correlated=True) > recall("hebb", pairs=32, correlated=True) + 0.1
