"""Engram memory: recall against what was stored, capacity against the hypergeometric law, reads against a loop."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import hypergeom
from torch import Tensor, nn

from neurons.errors import UsageError
from neurons.manifold import sdr
from neurons.manifold.engram import SDREngramMemory, graded_overlap, hopfield_read
from neurons.specs import Context


def build(gate: float = 0.1, **options: object) -> SDREngramMemory:
    torch.manual_seed(0)
    memory = SDREngramMemory(**({"width": 8, "size": 128, "active": 8} | options))  # type: ignore[arg-type]
    nn.init.constant_(memory.gate, gate)
    return memory


def hidden(steps: int = 12, seed: int = 1) -> Tensor:
    return torch.randn(2, steps, 8, generator=torch.Generator().manual_seed(seed))


def test_overlap_is_the_product_of_dense_codes_with_its_gradients() -> None:
    random = torch.Generator().manual_seed(0)
    index = sdr.threshold(torch.rand(2, 5, 64, generator=random), 6)
    theirs = sdr.threshold(torch.rand(2, 7, 64, generator=random), 6)
    grade = torch.rand(2, 5, 6, generator=random, requires_grad=True)
    weights = torch.rand(2, 7, 6, generator=random, requires_grad=True)
    dense = torch.zeros(2, 5, 64).scatter(-1, index.long(), grade)
    stored = torch.zeros(2, 7, 64).scatter(-1, theirs.long(), weights)
    outs = (graded_overlap((index, grade), (theirs, weights), 64), dense @ stored.mT)
    results = [[out, *torch.autograd.grad(out.square().sum(), [grade, weights])] for out in outs]
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("trail", "capacity"), [(0, 100), (1, 100), (2, 4), (0, 1)])
def test_every_read_by_hand(trail: int, capacity: int) -> None:
    memory, x = build(trail=trail, capacity=capacity), hidden()
    index, grade = memory.encode(x)
    wanted = torch.zeros(2, 12, 8)
    for b in range(2):
        for t in range(12):
            logits, values = [torch.zeros(())], [torch.zeros(8)]
            for s in range(12):
                if s + trail < t and s >= t - capacity:
                    ours = dict(zip(index[b, t].tolist(), grade[b, t], strict=True))
                    theirs = dict(zip(index[b, s].tolist(), grade[b, s], strict=True))
                    shared = sum(ours[bit] * theirs[bit] for bit in ours.keys() & theirs.keys())
                    logits.append(torch.as_tensor(memory.beta * (shared / 8 - memory.theta)))
                    values.append(memory.value(x[b, s + trail]))
            wanted[b, t] = memory.merge(torch.stack(logits).softmax(0) @ torch.stack(values))
    torch.testing.assert_close(memory(x, Context()), 0.1 * wanted, rtol=1e-4, atol=1e-6)


def test_a_repeated_token_recalls_what_followed_it() -> None:
    memory = build(1.0, width=32, size=512, active=16)
    with torch.no_grad():
        memory.beta.fill_(60.0)
        memory.value.weight.copy_(torch.eye(32))
        memory.merge.weight.copy_(torch.eye(32))
    x = torch.randn(1, 40, 32, generator=torch.Generator().manual_seed(3))
    x[0, 39] = x[0, 11]
    out = memory(x, Context())
    torch.testing.assert_close(out[0, 39], x[0, 12], rtol=0, atol=0.02)
    assert out[0, 1:39].abs().max() < 0.2  # nothing resembled these: they stay silent
    memory.trail = 0
    torch.testing.assert_close(memory(x, Context())[0, 39], x[0, 11], rtol=0, atol=0.02)


def recall(stored: int, size: int, active: int, kept: int, seed: int = 0) -> float:
    """Share of stored codes whose own value is read with more than half of the weight from ``kept`` of their bits."""
    random = torch.Generator().manual_seed(seed)
    codes = sdr.threshold(torch.rand(1, stored, size, generator=random), active)
    cue = torch.zeros(1, stored, active)
    cue[..., :kept] = 1.0
    order = torch.rand(1, stored, active, generator=random).argsort(-1)
    shared = graded_overlap((codes.gather(-1, order), cue), (codes, torch.ones(1, stored, active)), size)
    read = hopfield_read(40.0 * (shared - kept + 0.5), torch.eye(stored)[None], torch.ones(1, stored, stored).bool())
    return float((read[0].diagonal() > 0.5).double().mean())


def test_thousands_of_engrams_from_a_quarter_of_their_bits() -> None:
    assert recall(2000, 2048, 40, kept=10) == 1.0


@pytest.mark.parametrize("stored", [50, 500, 1500])
def test_capacity_follows_the_hypergeometric_law(stored: int) -> None:
    # a cue of 3 bits is recalled unless another code holds all three of them
    alone = 1 - hypergeom.sf(2, 128, 3, 8)
    wanted = alone ** (stored - 1)
    assert abs(recall(stored, 128, 8, kept=3) - wanted) < 4 * (wanted * (1 - wanted) / stored) ** 0.5 + 0.02


def test_future_and_self_are_never_read() -> None:
    memory, x = build(), hidden()
    before = memory(x, Context())
    for t in range(1, 12):
        noisy = torch.cat([x[:, :t], hidden(seed=2)[:, t:]], 1)
        torch.testing.assert_close(memory(noisy, Context())[:, :t], before[:, :t], rtol=0, atol=1e-6)
    assert not before[:, :2].any()  # nothing was complete before them


@pytest.mark.parametrize("capacity", [3, 100])
def test_chunks_give_the_whole_and_streams_are_apart(capacity: int) -> None:
    memory, x, state, parts = build(capacity=capacity), hidden(), {}, []
    for piece in x.split([1, 1, 4, 6], 1):
        context = Context(state=state)
        parts.append(memory(piece, context))
        state = context.next_state
    torch.testing.assert_close(torch.cat(parts, 1), memory(x, Context()), rtol=0, atol=1e-6)
    assert state["engrams"].bits.shape[1] <= capacity + 1
    assert state["engrams"].bits.dtype == torch.int16
    alone = memory(x[:1], Context())
    torch.testing.assert_close(alone, memory(x, Context())[:1], rtol=0, atol=1e-6)  # no stream reads another's


def test_padding_is_never_recalled() -> None:
    memory, x = build(), hidden()
    mask = torch.arange(12) < torch.tensor([[12], [5]])
    out = memory(x, Context(mask=mask))
    assert not out[~mask].any()
    torch.testing.assert_close(out[1, :5], memory(x[1:, :5], Context())[0], rtol=0, atol=1e-6)


def test_it_starts_silent_and_every_parameter_learns() -> None:
    assert not build(0.0)(hidden(), Context()).any()
    memory = build()
    memory(hidden(), Context()).square().sum().backward()
    assert [name for name, p in memory.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("options", [{"active": 128}, {"trail": -1}, {"capacity": 0}])
def test_impossible_memories_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"fewer active bits|trail >= 0"):
        build(**options)
