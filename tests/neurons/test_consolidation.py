"""Slower timescales: exact decay across dtypes and waits, the recall gate, and Benna and Fusi's chain."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from neurons.errors import UsageError
from neurons.plasticity import benna_fusi, recall_gate
from neurons.plasticity.consolidation import ConsolidatedMemory
from neurons.plasticity.fast_slow import FastSlowLinear
from neurons.specs import Context


def written(value=1.0, **options):
    """A memory whose medium and slow weights were written at time 0."""
    memory = ConsolidatedMemory(keys=2, values=2, **options)
    memory.medium.fill_(value)
    memory.slow.fill_(value)
    return memory


@pytest.mark.parametrize(("seconds", "kept"), [(1e-3, 1 - 1e-8), (16.0, 0.99984), (1e5, 0.36788)])
def test_decay_is_exact_however_long_the_wait(seconds, kept):
    memory = written(medium_gain=0.0)
    memory.wait(seconds)
    assert memory.weights()[0, 0, 0].item() == pytest.approx(math.exp(-seconds / 1e5), rel=1e-14)
    assert memory.weights()[0, 0, 0].item() == pytest.approx(kept, rel=1e-5)
    medium = written(slow_gain=0.0)
    medium.wait(10_000.0)  # explicit Euler with this step would multiply by 1 - 10 = -9
    assert medium.weights()[0, 0, 0].item() == pytest.approx(math.exp(-10), rel=1e-12)


def test_a_million_short_waits_are_one_long_one():
    """A decay of 1 - 1e-8 per step, multiplied in float32, never decays at all."""
    memory = written(medium_gain=0.0)
    for _ in range(1000):
        memory.wait(1.0)
    assert memory.weights()[0, 0, 0].item() == pytest.approx(math.exp(-0.01), rel=1e-12)
    lossy = torch.ones(())
    for _ in range(1000):
        lossy = lossy * torch.exp(torch.tensor(-1e-8))
    assert lossy.item() == 1.0


def test_casting_the_model_leaves_the_states_float64():
    memory = written(1 + 1e-12)
    memory.wait(1e-3)
    before = memory.weights()
    for cast in (memory.bfloat16, memory.half, memory.float):
        cast()
        assert all(state.dtype == torch.float64 for state in memory.buffers())
        assert torch.equal(memory.weights(), before)
    episode = {"episode_fast", "episode_share", "episode_seconds"}
    assert set(memory.state_dict()) == {"medium", "slow", "clock", "written"} | episode


def test_an_episode_moves_medium_to_fast_and_slow_to_medium():
    memory = ConsolidatedMemory(keys=2, values=3, medium_rate=0.25, slow_rate=0.1, threshold=0.5)
    memory.medium.fill_(2.0)
    memory.slow.fill_(-1.0)
    fast = torch.stack([torch.full((1, 2, 3), 4.0), torch.full((1, 2, 3), 100.0)])
    value = torch.ones(2, 1, 5, 3)
    recalled = torch.stack([torch.ones(1, 5, 3), -torch.ones(1, 5, 3)])  # the first sequence is recalled
    memory.observe(fast, recalled, value, None, torch.tensor(50.0))
    assert memory.medium.unique().item() == 2.0  # not before the end
    memory.end_episode()
    medium = 2.0 * math.exp(-50 / 1000)
    medium += 0.25 * (4.0 - medium) / 2
    slow = -math.exp(-50 / 1e5)
    assert memory.medium.unique().item() == pytest.approx(medium, rel=1e-12)
    assert memory.slow.unique().item() == pytest.approx(slow + 0.1 * (medium - slow), rel=1e-12)
    kept = memory.weights()
    torch.testing.assert_close(kept, memory.medium + memory.slow, rtol=1e-14, atol=0)  # it decays from now on
    memory.end_episode()  # nothing new was observed
    assert torch.equal(memory.weights(), kept)


def build(rule="delta", **options):
    torch.manual_seed(0)
    layer = FastSlowLinear(in_features=32, out_features=8, rule=rule, **options).double()
    torch.nn.init.constant_(layer.gate, 1.0)
    return layer


@pytest.mark.parametrize("rule", ["hebb", "delta", "rls"])
def test_what_one_episode_repeats_the_next_one_answers_at_first_sight(rule):
    layer = build(rule, consolidate=True)
    x = 10 * torch.randn(2, 6, 32).double()
    repeated = x.repeat(1, 3, 1)
    first = layer(x, Context())
    torch.testing.assert_close(layer(repeated, Context())[:, :6], first)  # a forward pass changes nothing
    layer.end_episode()
    learned = layer(x, Context()) - layer.slow(x)
    drive = layer.slow(x)
    cosine = torch.nn.functional.cosine_similarity(learned.flatten(1), drive.flatten(1))
    assert (cosine > 0.5).all()
    before = layer.memory.weights()
    layer(torch.randn(2, 6, 32).double(), Context())  # shown once: nothing is recalled
    layer.end_episode()
    assert layer.memory.weights().abs().sum() < before.abs().sum()


def test_without_the_option_an_episode_ends_without_a_trace():
    layer = build()
    x = torch.randn(2, 6, 32).double()
    y = layer(x, Context())
    layer.end_episode()
    assert torch.equal(layer(x, Context()), y)
    assert not list(layer.buffers())


def test_episodes_take_the_time_of_their_real_tokens():
    layer = build(consolidate=True)
    mask = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    layer(torch.randn(2, 6, 32).double(), Context(mask=mask))
    layer.end_episode()
    assert layer.memory.clock.item() == pytest.approx(0.004, rel=1e-12)


def test_the_recall_gate_keeps_what_returns_out_of_noise():
    """One pattern returns every third step among new ones: the gated memory holds more of it than the plain sum."""
    g = torch.Generator().manual_seed(0)
    pattern = torch.randn(400, generator=g)
    memories = recall_gate.Memories(torch.zeros(400), torch.zeros(400))
    plain = torch.zeros(400)
    for t in range(300):
        update = pattern if t % 3 == 0 else torch.randn(400, generator=g)
        memories = recall_gate.step(memories, update, keep=0.8, threshold=0.25)
        plain = plain + update
    gated = recall_gate.recall_strength(pattern, memories.long)
    ungated = recall_gate.recall_strength(pattern, plain)
    assert ungated.item() == pytest.approx(100 / math.sqrt(100**2 + 200), abs=0.01)
    assert 1 - gated.item() < 0.2 * (1 - ungated.item())


def test_recall_strength_is_the_cosine_and_silence_is_zero():
    a, b = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    assert recall_gate.recall_strength(a, b).item() == pytest.approx(9 / 25)
    torch.testing.assert_close(recall_gate.recall_strength(a, b, batched=True), torch.tensor([1.0, 0.0]))
    assert recall_gate.recall_strength(a, torch.zeros(2, 2)).item() == 0
    assert recall_gate.open_gate(torch.tensor([0.1, 0.3]), 0.2).tolist() == [0, 1]


def test_the_chain_remembers_as_published():
    chain = benna_fusi.advance(benna_fusi.start(torch.zeros(1).double()), torch.ones(1).double())
    found = {1: chain[0].item()}
    for age in range(2, 10_001):
        chain = benna_fusi.advance(chain, torch.zeros(1).double())
        found[age] = chain[0].item()
    published = {1: 0.75, 10: 0.285, 100: 0.095, 1000: 0.030, 10_000: 0.0095}
    for age, strength in published.items():
        assert found[age] == pytest.approx(strength, rel=0.01)
    slope = np.polyfit(np.log([10, 100, 1000, 10_000]), np.log([found[10**n] for n in range(1, 5)]), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.02)


def test_the_chain_is_its_matrix():
    size, alpha = 2.0 ** np.arange(5), 0.3
    flow = alpha / size
    matrix = np.eye(5)
    for k in range(5):
        matrix[k, k] -= flow[k] / size[k]
        if k < 4:
            matrix[k, k + 1] += flow[k] / size[k]
            matrix[k + 1, k] += flow[k] / size[k + 1]
            matrix[k + 1, k + 1] -= flow[k] / size[k + 1]
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 2, dtype=torch.float64, generator=g)
    chain, expected = benna_fusi.start(weight, beakers=5), np.zeros((5, 3, 2))
    for _ in range(7):
        update = torch.randn(3, 2, dtype=torch.float64, generator=g)
        chain = benna_fusi.advance(chain, update, alpha=alpha)
        expected[0] += update.numpy()
        expected = np.einsum("kl,lij->kij", matrix, expected)
    np.testing.assert_allclose(chain.numpy(), expected, rtol=1e-12)


def test_wrong_options_are_refused():
    with pytest.raises(UsageError, match=r"alpha=0\.25"):
        benna_fusi.advance(torch.zeros(2, 1), torch.zeros(1), alpha=1.5)
    with pytest.raises(UsageError, match="one beaker or more"):
        benna_fusi.start(torch.zeros(1), beakers=0)
    with pytest.raises(UsageError, match="between 0 and 1"):
        ConsolidatedMemory(medium_rate=1.5)
    with pytest.raises(UsageError, match="positive times"):
        ConsolidatedMemory(tau_slow=0.0)
