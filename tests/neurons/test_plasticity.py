"""Fast-slow linear layer: against its equation written as a loop, and the stage contract."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from neurons.errors import UsageError
from neurons.plasticity.fast_slow import FastSlowLinear
from neurons.specs import Context

RULES = ["hebb", "delta", "rls"]


def build(rule="delta", gate=0.7, dtype=torch.float64, **options):
    torch.manual_seed(0)
    layer = FastSlowLinear(**{"in_features": 8, "out_features": 6, "rule": rule, **options}).to(dtype)
    torch.nn.init.constant_(layer.gate, gate)
    return layer


def by_loop(layer, x):
    """The docstring's equations, one step and one head at a time, for one sequence (T, in); the final weights too."""
    decay = math.exp(-layer.dt / layer.tau_fast)
    wide, out = (layer.keys or layer.in_features) // layer.heads, layer.out_features // layer.heads
    memory = [torch.zeros(wide, out).to(x.dtype) for _ in range(layer.heads)]
    gram = [0.001 * torch.eye(wide).to(x.dtype) for _ in range(layer.heads)]
    cross = [torch.zeros(wide, out).to(x.dtype) for _ in range(layer.heads)]
    before = [torch.zeros(wide).to(x.dtype) for _ in range(layer.heads)]
    answers = []
    for step in x:
        v = layer.slow.weight @ step + layer.slow.bias
        projected = step if layer.key is None else layer.key.weight @ step
        y = v.clone()
        for h in range(layer.heads):
            part = slice(h * out, (h + 1) * out)
            q = projected[h * wide : (h + 1) * wide]
            q = (q - q.mean()) / (q - q.mean()).norm()
            k = before[h] if layer.lag else q
            before[h] = q
            faded = memory[h] if layer.rule == "rls" else decay * memory[h]
            y[part] = v[part] + layer.gate[h] * (faded.T @ q)
            if layer.rule == "rls":
                gram[h] = decay * gram[h] + torch.outer(k, k)
                cross[h] = decay * cross[h] + torch.outer(k, v[part])
                memory[h] = torch.linalg.solve(gram[h], cross[h])
            else:
                e = v[part] - faded.T @ k if layer.rule == "delta" else v[part]
                memory[h] = faded + (layer.eta or 0.5) * torch.outer(k, e)
        answers.append(y)
    return torch.stack(answers), torch.stack(memory)


def tensors(held):
    return [held] if isinstance(held, torch.Tensor) else list(held)


def weights(context):
    found = context.next_state["fast_slow"]
    return found if isinstance(found, torch.Tensor) else found.weights()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("steps", [9, 63])
@pytest.mark.parametrize("options", [{}, {"lag": 1}, {"keys": 4}, {"keys": 12, "lag": 1}], ids=str)
def test_equals_the_equation_written_as_a_loop(rule, heads, steps, options):
    layer = build(rule, heads=heads, eta=None if rule == "rls" else 0.8, tau_fast=0.05, dt=0.002, **options)
    # The constant in the layer normalisation (1e-5 of the variance) is all that keeps large inputs from equality.
    x = 10_000 * torch.randn(2, steps, 8).double()
    context = Context()
    y = layer(x, context)
    for n in range(2):
        expected, memory = by_loop(layer, x[n])
        torch.testing.assert_close(y[n], expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
        torch.testing.assert_close(weights(context)[n], memory, rtol=1e-5, atol=1e-5 * memory.abs().max().item())


def test_a_closed_gate_is_an_ordinary_linear_layer_and_the_gate_still_learns():
    layer = build(gate=0.0)
    assert torch.equal(FastSlowLinear(in_features=8, out_features=6).gate, torch.zeros(1))
    x = torch.randn(2, 5, 8).double()
    y = layer(x, Context())
    torch.testing.assert_close(y, torch.nn.functional.linear(x, layer.slow.weight, layer.slow.bias))
    y.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())


@pytest.mark.parametrize("rule", RULES)
def test_the_past_is_blind_to_the_future_and_the_future_sees_the_past(rule):
    layer = build(rule)
    x = torch.randn(2, 80, 8).double()
    for start in (1, 40, 70):
        changed = torch.cat([x[:, :start], torch.randn(2, 80 - start, 8).double()], 1)
        same, other = layer(x, Context())[:, :start], layer(changed, Context())[:, :start]
        torch.testing.assert_close(same, other, rtol=0, atol=1e-12)
    first = torch.cat([torch.randn(2, 1, 8).double(), x[:, 1:]], 1)
    assert (layer(first, Context())[:, 1:] - layer(x, Context())[:, 1:]).abs().max() > 1e-3


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("lag", [0, 1])
def test_padding_left_or_right_changes_nothing_and_is_zero(rule, lag):
    layer = build(rule, heads=2, lag=lag)
    x = torch.randn(2, 12, 8).double()
    bare = Context()
    y = layer(x, bare)
    for left, right in ((0, 9), (5, 0), (60, 30)):
        padded = torch.randn(2, left + 12 + right, 8).double()
        padded[:, left : left + 12] = x
        mask = torch.zeros(2, left + 12 + right, dtype=torch.bool)
        mask[:, left : left + 12] = True
        context = Context(mask=mask)
        out = layer(padded, context)
        torch.testing.assert_close(out[:, left : left + 12], y, rtol=0, atol=1e-10)
        assert (out[~mask] == 0).all()
        torch.testing.assert_close(weights(context), weights(bare), rtol=1e-9, atol=1e-10)
        if lag:
            torch.testing.assert_close(context.next_state["fast_slow.key"], bare.next_state["fast_slow.key"])


@pytest.mark.parametrize("rule", RULES)
def test_a_mask_with_holes_is_the_sequence_without_them(rule):
    layer = build(rule, lag=1)
    x = torch.randn(2, 40, 8).double()
    mask = torch.rand(2, 40, generator=torch.Generator().manual_seed(1)) < 0.6
    y = layer(x, Context(mask=mask))
    for n in range(2):
        bare = layer(x[n : n + 1, mask[n]], Context())
        torch.testing.assert_close(y[n, mask[n]], bare[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("lag", [0, 1])
def test_streaming_equals_the_whole_and_never_writes_in_place(rule, lag):
    layer = build(rule, heads=2, lag=lag, label="block0")
    x = torch.randn(2, 90, 8).double()
    whole = layer(x, Context())
    state: dict = {}
    for start, stop in itertools.pairwise([0, 1, 2, 75, 90]):
        context = Context(state=state)
        before = {name: [x.clone() for x in tensors(held)] for name, held in state.items()}
        piece = layer(x[:, start:stop], context)
        torch.testing.assert_close(piece, whole[:, start:stop], rtol=0, atol=1e-9)
        assert set(context.next_state) == ({"block0", "block0.key"} if lag else {"block0"})
        assert not any(x.requires_grad for held in context.next_state.values() for x in tensors(held))
        assert all(
            torch.equal(*pair) for name in state for pair in zip(tensors(state[name]), before[name], strict=True)
        )
        state = context.next_state


def test_a_repeated_input_is_answered_with_what_it_drove_before():
    """One-shot binding: the delta read at a token's second showing is the neuron's response at the first."""
    layer = build(gate=1.0, in_features=64, tau_fast=1e6, eta=1.0)
    x = 10 * torch.linalg.qr(torch.randn(64, 64).double())[0][:20]
    x = x - x.mean(-1, keepdim=True)
    sequence = torch.cat([x, x[:5]]).unsqueeze(0)
    y = layer(sequence, Context())
    drive = layer.slow(sequence)
    torch.testing.assert_close((y - drive)[0, 20:], drive[0, :5], rtol=0.15, atol=0.05)
    assert (y - drive)[0, :20].abs().mean() < 0.2 * drive.abs().mean()


def test_with_lag_a_repeated_input_is_answered_with_what_came_after_it():
    """Induction: A B .. A is answered with what B drove."""
    layer = build(gate=1.0, in_features=64, tau_fast=1e6, eta=1.0, lag=1)
    x = 10 * torch.linalg.qr(torch.randn(64, 64).double())[0][:20]
    x = x - x.mean(-1, keepdim=True)
    sequence = torch.cat([x, x[3:4]]).unsqueeze(0)
    drive = layer.slow(sequence)
    answer = (layer(sequence, Context()) - drive)[0, 20]
    assert torch.cosine_similarity(answer, drive[0, 4], 0) > 0.98


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("options", [{}, {"lag": 1, "keys": 4}], ids=str)
def test_gradients_are_right_and_finite_at_a_silent_input(rule, options):
    layer = build(rule, heads=2, in_features=6, out_features=2, **options)
    x = torch.randn(1, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: layer(a, Context()), x)
    silent = torch.zeros(1, 5, 6, dtype=torch.float64, requires_grad=True)
    layer(silent, Context()).sum().backward()
    assert silent.grad.abs().max() < 1e4


def test_bf16_autocast_keeps_the_memory_in_float32():
    layer = build(dtype=torch.float32, in_features=32)
    x = torch.randn(2, 20, 32)
    exact = layer(x, Context())
    context = Context()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = layer(x, context)
    assert context.next_state["fast_slow"].dtype == torch.float32
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05)


def test_compiles_into_one_graph():
    layer = build(dtype=torch.float32)
    x = torch.randn(2, 9, 8)
    compiled = torch.compile(lambda a: layer(a, Context()), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x, Context()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "hebbian"}, "Did you mean 'hebb'"),
        ({"heads": 4}, "do not split into 4 heads"),
        ({"keys": 5, "heads": 2}, "5 keys and 6 outputs do not split"),
        ({"lag": 2}, "lag is 0"),
        ({"rule": "rls", "eta": 0.5}, "leave eta out"),
        ({"eta": 2.0}, "between 0 and 2"),
        ({"tau_fast": 0.0}, "positive times"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        FastSlowLinear(**{"in_features": 8, "out_features": 6, **options})
