"""What every registered attention owes, whatever it is made of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import baselines  # noqa: F401 - extends ATTENTIONS with the baselines
from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.model import Attention
from neurons.specs import Context

WIDTH, STEPS = 16, 150  # more steps than a chunk, and than the length below which causal attention is dense
CAUSAL = [name for name in ATTENTIONS.names() if getattr(ATTENTIONS.get(name), "can_be_causal", True)]
every = pytest.mark.parametrize("name", ATTENTIONS.names())
causal_ones = pytest.mark.parametrize("name", CAUSAL)
both = pytest.mark.parametrize(
    ("name", "causal"), [(name, False) for name in ATTENTIONS.names()] + [(name, True) for name in CAUSAL]
)


def build(name: str, causal: bool, **options: object) -> Attention:
    torch.manual_seed(0)
    return ATTENTIONS.build(name, width=WIDTH, causal=causal, **options).eval()


def hidden(steps: int = STEPS, seed: int = 1) -> Tensor:
    return torch.randn(3, steps, WIDTH, generator=torch.Generator().manual_seed(seed))


def right_padding(steps: int = STEPS) -> Tensor:
    return torch.arange(steps) < torch.tensor([[steps], [steps - 40], [5]])


@both
@pytest.mark.parametrize("steps", [1, 7, STEPS])
def test_shape_type_and_causality_flag(name: str, causal: bool, steps: int) -> None:
    attention = build(name, causal)
    out = attention(hidden(steps), Context())
    assert out.shape == (3, steps, WIDTH)
    assert out.dtype == torch.float32
    assert attention.is_causal is causal
    assert attention.name == name


@both
def test_padding_changes_nothing(name: str, causal: bool) -> None:
    attention, x, mask = build(name, causal), hidden(), right_padding()
    out = attention(x.masked_fill(~mask[..., None], 1e3), Context(mask=mask))
    assert (out[~mask] == 0).all()
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = attention(x[row : row + 1, :length], Context())
        torch.testing.assert_close(out[row, :length], alone[0], rtol=0, atol=2e-6)


@causal_ones
def test_no_suffix_reaches_its_past(name: str) -> None:
    attention, x = build(name, True), hidden()
    before = attention(x, Context())
    for t in range(1, STEPS):
        noisy = torch.cat([x[:, :t], hidden(STEPS, seed=2)[:, t:]], 1)
        torch.testing.assert_close(attention(noisy, Context())[:, :t], before[:, :t], rtol=0, atol=1e-6)


@causal_ones
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_second_chunk_goes_on_exactly_or_is_refused(name: str, elsewhere: bool) -> None:
    attention, x = build(name, True), hidden()
    whole, first, second = attention(x, Context()), Context(), Context()
    start = attention(x[:, :70], first)
    torch.testing.assert_close(start, whole[:, :70], rtol=0, atol=1e-6)
    # in a model other stages leave state too; what an attention itself leaves must do
    second.state = first.next_state | ({"embedding": torch.tensor(70)} if elsewhere else {})
    if any(value is not None for value in first.next_state.values()):
        torch.testing.assert_close(attention(x[:, 70:], second), whole[:, 70:], rtol=0, atol=2e-6)
    else:
        with pytest.raises(UsageError, match=rf"^attention '{name}' keeps no state[^\n]+Try: [^\n]+$"):
            attention(x[:, 70:], second)


@pytest.mark.parametrize("name", [name for name in ATTENTIONS.names() if name not in CAUSAL])
def test_what_has_no_causal_form_says_so(name: str) -> None:
    with pytest.raises(UsageError, match=f"attention '{name}' cannot be causal.* Try: "):
        build(name, True)


@every
def test_every_token_reaches_every_other_when_not_causal(name: str) -> None:
    attention = build(name, False)
    x = hidden(20)[:1].requires_grad_()
    out = attention(x, Context())
    weights = torch.randn(WIDTH, generator=torch.Generator().manual_seed(3))
    first = torch.autograd.grad((out[0, 0] * weights).sum(), x, retain_graph=True)[0]
    last = torch.autograd.grad((out[0, -1] * weights).sum(), x)[0]
    assert (first[0].abs().sum(-1) > 0).all()
    assert (last[0].abs().sum(-1) > 0).all()


@both
def test_content_decides_who_listens_to_whom(name: str, causal: bool) -> None:
    # not a constant smoothing matrix: the map is not linear in x, unless it declares that it is one
    attention, x, y = build(name, causal), hidden(seed=1), hidden(seed=2)
    context = Context()
    sum_of_outputs = attention(x, context) + attention(y, context) - attention(torch.zeros_like(x), context)
    apart = (attention(x + y, context) - sum_of_outputs).abs().max()
    assert apart > 0.01 if getattr(attention, "reads_content", True) else apart < 1e-5


@both
@pytest.mark.parametrize("padded", [False, True])
def test_gradient_at_zero_input_is_finite(name: str, causal: bool, padded: bool) -> None:
    attention = build(name, causal)
    x = torch.zeros(3, STEPS, WIDTH, requires_grad=True)
    out = attention(x, Context(mask=right_padding() if padded else None))
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
    (out * weights).sum().backward()
    assert torch.isfinite(out).all()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() > 0


@both
def test_bfloat16_autocast_stays_near_float32(name: str, causal: bool) -> None:
    attention, mask = build(name, causal), right_padding()
    x = hidden().requires_grad_()
    exact = attention(x, Context(mask=mask))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = attention(x, Context(mask=mask))
        low_input = attention(x.bfloat16(), Context(mask=mask))
    assert (low[~mask] == 0).all()
    torch.testing.assert_close(low.float(), exact, rtol=0.03, atol=0.03)
    torch.testing.assert_close(low_input.float(), exact, rtol=0.1, atol=0.1)
    low.float().square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@both
def test_compiles_in_one_graph(name: str, causal: bool) -> None:
    torch._dynamo.reset()
    attention, x, mask = build(name, causal), hidden().requires_grad_(), right_padding()
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager", dynamic=False)
    expected, out = attention(x, Context(mask=mask)), compiled(x, Context(mask=mask))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
    wanted = torch.autograd.grad(expected.square().sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(out.square().sum(), x)[0], wanted, rtol=1e-5, atol=1e-5)


@every
def test_options_are_stored_unchanged(name: str) -> None:
    attention = build(name, False)
    for option, default in ATTENTIONS.entry(name).defaults().items():
        assert getattr(attention, option) == default
        assert type(getattr(attention, option)) is type(default)
    assert attention.width == WIDTH


@pytest.mark.parametrize("name", [name for name in ATTENTIONS.names() if "heads" in ATTENTIONS.entry(name).defaults()])
def test_heads_must_divide_the_width(name: str) -> None:
    with pytest.raises(UsageError, match="width 16"):
        build(name, False, heads=3)


@every
def test_gives_the_same_twice_and_leaves_its_input(name: str) -> None:
    attention, x, mask = build(name, name in CAUSAL), hidden(), right_padding()
    kept = x.clone()
    first = attention(x, Context(mask=mask))
    assert torch.equal(first, attention(x, Context(mask=mask)))
    assert torch.equal(x, kept)
