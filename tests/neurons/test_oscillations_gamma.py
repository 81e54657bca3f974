"""Gamma attention: rhythms from closed forms, phases from content, no parameter, and what it can and cannot hold."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext

import pytest
import torch
from torch import Tensor

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.oscillations.gamma import GammaAttention
from neurons.oscillations.rhythm import gamma_band, rhythm
from neurons.specs import Context

VARIANTS = [
    {"form": "phase"},
    {"form": "amplitude"},
    {"form": "phase", "split": False},
    {"form": "amplitude", "split": False},
    {"form": "phase", "kernel": "sigmoid_cosine"},
    {"form": "amplitude", "kernel": "raised_cosine", "content_heads": 1},
    {"form": "phase", "mode": "window", "window": 9},
    {"form": "amplitude", "mode": "dense", "order": 5},
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def gamma(width: int = 8, causal: bool = False, **options: object) -> GammaAttention:
    """With phases of their own for queries, the general form; those without are named where they are tested."""
    return ATTENTIONS.build("gamma", width=width, causal=causal, **{"heads": 2, "split": True, **options})


def by_hand(attention: GammaAttention, x: Tensor) -> Tensor:
    """The layer as loops over heads in float64, for von Mises in phase form."""
    x = x.double()
    size, steps = x.shape[-1] // attention.heads, x.shape[1]
    out = []
    for h, hertz in enumerate(attention.frequencies):
        v = x[..., h * size : (h + 1) * size]
        beat = 2 * math.pi * hertz * attention.dt * torch.arange(steps).double()
        sends = torch.atan2(v[..., 1], v[..., 0]) + beat
        receives = torch.atan2(v[..., 3], v[..., 2]) + beat if attention.split else sends
        weight = torch.exp(attention.kappa * (torch.cos(receives[:, :, None] - sends[:, None, :]) - 1))
        weight = weight.tril() if attention.is_causal else weight
        out.append(weight @ v / weight.sum(-1, keepdim=True))
    return torch.cat(out, -1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("steps", [20, 200, 600])
@pytest.mark.parametrize("split", [False, True])
def test_phase_form_is_the_formula(causal: bool, steps: int, split: bool) -> None:
    attention, x = gamma(causal=causal, form="phase", split=split), torch.randn(2, steps, 8)
    torch.testing.assert_close(attention(x, Context()).double(), by_hand(attention, x), rtol=0, atol=2e-6)


@pytest.mark.parametrize("split", [False, True])
def test_amplitude_form_tends_to_the_phase_form(split: bool) -> None:
    attention, x = gamma(gain=1e4, split=split), torch.randn(2, 50, 8)
    torch.testing.assert_close(attention(x, Context()).double(), by_hand(attention, x), rtol=0, atol=1e-4)


def test_amplitude_form_attends_uniformly_where_the_phase_channels_are_silent() -> None:
    x = torch.randn(2, 50, 8)
    x[..., [0, 1, 4, 5]] = 0
    out = gamma()(x, Context())
    torch.testing.assert_close(out, x.mean(1, keepdim=True).expand_as(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_there_is_nothing_to_learn_or_to_save(options: dict, causal: bool) -> None:
    attention = gamma(causal=causal, **options)
    assert sum(p.numel() for p in attention.parameters()) == 0
    assert attention.state_dict() == {}


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_every_variant_is_padding_safe_and_finite_at_zero(options: dict, causal: bool) -> None:
    attention, x = gamma(causal=causal, **options), torch.randn(2, 30, 8)
    mask = torch.arange(30) < torch.tensor([[30], [17]])
    out = attention(x, Context(mask=mask))
    assert (out[1, 17:] == 0).all()
    torch.testing.assert_close(out[1:, :17], attention(x[1:, :17], Context()), rtol=0, atol=1e-6)
    zero = torch.zeros(2, 30, 8, requires_grad=True)
    attention(zero, Context(mask=mask)).sum().backward()
    assert zero.grad is not None
    assert torch.isfinite(zero.grad).all()
    zero = torch.full((2, 30, 8), 1e-7, requires_grad=True)
    attention(zero, Context(mask=mask)).sum().backward()
    assert torch.isfinite(zero.grad).all()  # type: ignore[arg-type]


def test_left_padding_changes_nothing_because_positions_are_relative() -> None:
    attention, x = gamma(), torch.randn(1, 30, 8)
    shifted = torch.cat([torch.zeros(1, 11, 8), x], 1)
    mask = torch.arange(41)[None] >= 11
    out = attention(shifted, Context(mask=mask))[:, 11:]
    torch.testing.assert_close(out, attention(x, Context()), rtol=0, atol=2e-6)


CHANGES = {
    "heads": 4,
    "kernel": "sigmoid_cosine",
    "kappa": 2.0,
    "form": "phase",
    "split": False,
    "order": 2,
    "gain": 0.5,
    "low": 10.0,
    "high": 200.0,
    "dt": 0.003,
    "content_heads": 1,
    "leak": 0.9,
}


@pytest.mark.parametrize("options", [{}, {"form": "phase"}, {"leak": 0.8, "leak_longest": 0.99}], ids=str)
@pytest.mark.parametrize("sizes", [(1,), (1, 70, 300)], ids=str)
def test_chunks_of_a_stream_are_the_whole_sequence(options: dict, sizes: tuple[int, ...]) -> None:
    attention = gamma(causal=True, content_heads=1, **options)
    x = torch.randn(2, 40 if sizes == (1,) else 1000, 8)
    mask = torch.rand(2, x.shape[1]) > 0.1
    whole = attention(x, Context(mask=mask))
    state: dict = {}
    parts, start = [], 0
    while start < x.shape[1]:
        part = slice(start, start + sizes[len(parts) % len(sizes)])
        context = Context(mask=mask[:, part], state=state)
        parts.append(attention(x[:, part], context))
        assert set(context.next_state) == {"gamma"}
        assert not context.next_state["gamma"].trace.field.requires_grad
        state, start = context.next_state, part.stop
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-6)


def test_only_a_causal_layer_has_a_state() -> None:
    context = Context()
    gamma()(torch.randn(1, 5, 8), context)
    assert context.next_state == {}


def test_memories_of_the_heads_are_in_equal_ratios() -> None:
    attention = gamma(24, heads=6, content_heads=3, leak=0.5, leak_longest=0.98)
    spans = [1 / (1 - leak) for leak in attention.leaks]  # type: ignore[union-attr]
    assert spans == pytest.approx([2, 10, 50] * 2, rel=1e-9)
    assert gamma(leak=0.9).leaks == 0.9
    assert gamma().leaks is None


@pytest.mark.parametrize("causal", [False, True])
def test_the_leak_weighs_by_distance(causal: bool) -> None:
    attention = gamma(causal=causal, leak=0.6, leak_longest=0.9, content_heads=1)
    x = torch.randn(1, 30, 8)
    x[..., [0, 1, 4, 5]] = 0.0  # silent phases: the leak alone decides
    distance = (torch.arange(30)[:, None] - torch.arange(30)).abs().double()
    out = attention(x, Context())
    for head, leak in enumerate((0.6, 0.6)):
        weight = (leak**distance).tril() if causal else leak**distance
        part = slice(4 * head, 4 * head + 4)
        expected = (weight @ x[0, :, part].double()) / weight.sum(-1, keepdim=True)
        torch.testing.assert_close(out[0, :, part].double(), expected, rtol=0, atol=1e-6)


def test_daido_orders_are_observable() -> None:
    attention, context = gamma(content_heads=2, form="phase", orders=2), Context(observables={})
    x = torch.zeros(1, 30, 8)
    x[0, ::2, [0, 4]], x[0, 1::2, [0, 4]] = 1.0, -1.0  # two clusters in antiphase
    attention(x, context)
    assert set(context.observables) == {"gamma.R", "gamma.R2"}  # type: ignore[arg-type]
    torch.testing.assert_close(context.observables["gamma.R"], torch.zeros(1, 2), rtol=0, atol=1e-6)  # type: ignore[index]
    torch.testing.assert_close(context.observables["gamma.R2"], torch.ones(1, 2), rtol=0, atol=1e-6)  # type: ignore[index]


@pytest.mark.parametrize("options", [*VARIANTS, {"leak": 0.8, "leak_longest": 0.99}], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_every_variant_compiles_in_one_graph(options: dict, causal: bool) -> None:
    torch._dynamo.reset()
    attention, x, state = gamma(causal=causal, **options), torch.randn(1, 30, 8, requires_grad=True), Context()
    attention(x.detach(), state)

    def run(x: Tensor) -> Tensor:
        return attention(x, Context(state=state.next_state))

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=False)
    wanted, got = run(x), compiled(x)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
    expected = torch.autograd.grad(wanted.square().sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(got.square().sum(), x)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("option", CHANGES)
def test_every_option_does_something(option: str) -> None:
    x = torch.randn(2, 40, 16)
    plain = gamma(16, causal=True)(x, Context())
    changed = gamma(16, causal=True, **{option: CHANGES[option]})(x, Context())
    assert (changed - plain).abs().max() > 1e-3


def test_order_of_tokens_matters_through_the_rhythm_only() -> None:
    x, shuffle = torch.randn(1, 40, 8), torch.randperm(40)
    with_rhythm, without = gamma(), gamma(content_heads=2)
    assert (with_rhythm(x[:, shuffle], Context()) - with_rhythm(x, Context())[:, shuffle]).abs().max() > 0.05
    torch.testing.assert_close(without(x[:, shuffle], Context()), without(x, Context())[:, shuffle], rtol=0, atol=2e-6)


def test_tokens_in_phase_are_bound_and_tokens_in_antiphase_are_not() -> None:
    # two assemblies, half a cycle apart, in one sequence: each token averages its own assembly
    phase = torch.tensor([0.0, math.pi] * 20)
    own = torch.arange(40) % 2
    x = torch.zeros(1, 40, 4)
    x[0, :, 0], x[0, :, 1], x[0, :, 2], x[0, :, 3] = torch.cos(phase), torch.sin(phase), 1.0 - own, own.float()
    out = gamma(4, heads=1, form="phase", kappa=4.0, content_heads=1, split=False)(x, Context())
    leak = math.exp(-8.0)
    torch.testing.assert_close(out[0, :, 3], (own + (1 - own) * leak) / (1 + leak), rtol=0, atol=1e-6)


def test_a_receiver_hears_those_who_send_in_its_window_not_its_like() -> None:
    # two assemblies send half a cycle apart, and each receives when the other sends
    sends = torch.tensor([0.0, math.pi] * 20)
    receives, own = sends + math.pi, (torch.arange(40) % 2).float()
    x = torch.zeros(1, 40, 5)
    x[0] = torch.stack([sends.cos(), sends.sin(), receives.cos(), receives.sin(), own], -1)
    out = gamma(5, heads=1, form="phase", content_heads=1)(x, Context())
    leak = math.exp(-8.0)
    torch.testing.assert_close(out[0, :, 4], (1 - own + own * leak) / (1 + leak), rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["amplitude", "phase"])
@pytest.mark.parametrize("causal", [False, True])
def test_what_is_received_like_what_is_sent_needs_no_split(form: str, causal: bool) -> None:
    x = torch.randn(2, 300, 8)
    x[..., [2, 3, 6, 7]] = x[..., [0, 1, 4, 5]]
    out, single = (gamma(causal=causal, form=form, split=split)(x, Context()) for split in (True, False))
    torch.testing.assert_close(out, single, rtol=0, atol=2e-6)


def test_order_parameter_is_that_of_the_senders() -> None:
    x, context = torch.randn(1, 30, 8), Context(observables={})
    x[..., [0, 4]], x[..., [1, 5]] = 1.0, 0.0
    gamma(form="phase", content_heads=2)(x, context)
    torch.testing.assert_close(context.observables["gamma.R"], torch.ones(1, 2), rtol=0, atol=1e-6)  # type: ignore[index]


def test_order_parameter_of_the_heads_is_observable() -> None:
    attention = gamma(content_heads=1, form="phase", label="layer.2")
    x = torch.zeros(2, 30, 8)
    x[0, :, 0] = 1.0  # head 0: all in phase
    x[1, ::2, 0], x[1, 1::2, 0] = 1.0, -1.0  # two clusters in antiphase
    x[..., 4] = 1.0  # head 1: the rhythm alone, a geometric series of unit vectors
    mask = torch.arange(30) < torch.tensor([[30], [20]])
    context = Context(mask=mask, observables={})
    attention(x, context)
    turn = 2 * math.pi * attention.frequencies[1] * attention.dt / 2
    beat = [abs(math.sin(n * turn) / (n * math.sin(turn))) for n in (30, 20)]
    expected = torch.tensor([[1.0, beat[0]], [0.0, beat[1]]])
    torch.testing.assert_close(context.observables["layer.2.R"], expected, rtol=0, atol=1e-6)  # type: ignore[index]


def test_the_band_is_centred_at_60_hz() -> None:
    assert gamma_band(1, 30.0, 100.0) == (60.0,)
    five = gamma_band(5, 30.0, 100.0)
    expected = (30.0, math.sqrt(30.0 * 60.0), 60.0, math.sqrt(60.0 * 100.0), 100.0)
    assert five == pytest.approx(expected, rel=1e-12)
    assert gamma_band(0, 30.0, 100.0) == ()


def test_the_rhythm_does_not_drift_in_a_million_tokens() -> None:
    getcontext().prec = 40
    cos, sin = rhythm((40.0, 71.13786608980125), 0.001, 1_000_001)
    pi = Decimal("3.141592653589793238462643383279502884197")
    for row, hertz in enumerate((Decimal("40"), Decimal("71.13786608980125"))):
        for step in (0, 1, 999_983, 1_000_000):
            turns = (hertz * step * Decimal("0.001")) % 1
            angle = float(2 * pi * turns)
            assert float(cos[row, step]) == pytest.approx(math.cos(angle), abs=1e-9)
            assert float(sin[row, step]) == pytest.approx(math.sin(angle), abs=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "width 8 does not split"),
        ({"heads": 4}, "4 heads of 4 channels"),
        ({"heads": 8, "split": False}, "8 heads of 2 channels"),
        ({"low": 70.0}, "must hold 60 Hz"),
        ({"content_heads": 3}, "content_heads is 0 to 2"),
        ({"gain": 0.0}, "above 0"),
        ({"dt": 0.0}, "above 0"),
        ({"leak": 1.1}, "factor in"),
        ({"orders": 0}, "1 or more"),
        ({"leak_longest": 0.9}, "leak=0.75, leak_longest"),
        ({"leak": 0.9, "leak_longest": 0.8}, "from leak up"),
        ({"leak": 0.9, "leak_longest": 1.0}, "below 1"),
        ({"mode": "window"}, "window=128"),
        ({"kernel": "gauss"}, "unknown kernel"),
        ({"form": "angle"}, "form"),
        ({"kappa": -1.0}, "kappa"),
    ],
)
def test_wrong_options_are_usage_errors(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        gamma(**options)
