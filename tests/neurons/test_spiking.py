"""Spiking somas against snntorch's neuron, autograd through the recurrence and closed forms; energy against counts."""

from __future__ import annotations

import math

import pytest
import snntorch
import torch
from torch import Tensor

from baselines.flops import count_macs
from neurons import MODELS
from neurons.errors import UsageError
from neurons.specs import Batch, Context, InputSpec, OutputSpec
from neurons.spiking.energy import effective_macs, energy_joule, spike_counts
from neurons.spiking.membrane import membrane, membrane_reference
from neurons.spiking.soma import SURROGATES, SpikingSoma

surrogate_kinds = pytest.mark.parametrize("surrogate", sorted(SURROGATES))


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def step_by_step(soma: SpikingSoma, current: Tensor) -> tuple[Tensor, Tensor]:
    """snntorch's Leaky in a loop: spikes and the last membrane."""
    neuron = soma.snntorch_neuron()
    potential, spikes = torch.zeros_like(current[:, 0]), []
    for t in range(current.shape[1]):
        fired, potential = neuron(current[:, t], potential)
        spikes.append(fired)
    snntorch._neurons.neurons.SpikingNeuron.init()
    return torch.stack(spikes, 1), potential


@surrogate_kinds
@pytest.mark.parametrize("steps", [1, 2, 150])
def test_spikes_and_gradients_are_snntorchs(surrogate: str, steps: int) -> None:
    soma = SpikingSoma(6, 0.004, 0.8, surrogate, "s")  # type: ignore[arg-type]
    weights, results = draw(3, steps, 6, seed=1, dtype=torch.float32), []
    for form in ("ours", "theirs"):
        current, context = draw(3, steps, 6, dtype=torch.float32).requires_grad_(), Context()
        if form == "ours":
            spikes = soma(current, context)
            last = context.next_state["s"]
        else:
            spikes, last = step_by_step(soma, current)
        results.append((spikes, last, torch.autograd.grad((spikes * weights).sum(), current)[0]))
    assert torch.equal(results[0][0], results[1][0])
    assert steps < 100 or 0.1 < results[0][0].mean() < 0.5
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0, atol=1e-6)
    torch.testing.assert_close(results[0][2], results[1][2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_membrane_and_its_gradient_are_the_recurrence(masked: bool) -> None:
    mask = draw(3, 40, seed=3) > -0.5 if masked else None  # holes anywhere, at both ends too
    probe, results = draw(3, 40, 5, seed=4), []
    for form in (membrane, membrane_reference):
        current, start = draw(3, 40, 5).requires_grad_(), (2 * draw(3, 5, seed=1)).requires_grad_()
        potential = form(current, 0.8, 0.7, start, mask)
        results.append([potential, *torch.autograd.grad((potential * probe).sum(), [current, start])])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    assert (results[0][0] > 0.7).any()


def test_membrane_leaves_its_input() -> None:
    for shape in ((1, 7, 3), (2, 1, 3), (2, 7, 3)):  # where the copy in time order could be a view
        current, start = draw(*shape), draw(shape[0], 3, seed=1)
        kept = current.clone(), start.clone()
        membrane(current, 0.9, 0.5, start)
        assert torch.equal(current, kept[0])
        assert torch.equal(start, kept[1])


def test_constant_current_fires_when_the_closed_form_says() -> None:
    """Charging is I (1 - beta^{t+1}) / (1 - beta): above threshold first at t, and never if its limit is below."""
    soma = SpikingSoma(3, tau_mem=0.01)
    beta = math.exp(-0.1)
    current = torch.tensor([0.15, 0.3, 0.9 * (1 - beta)], dtype=torch.float64).expand(1, 200, 3)
    spikes = soma(current, Context())[0]
    for neuron, strength in ((0, 0.15), (1, 0.3)):
        first = math.ceil(math.log(1 - (1 - beta) / strength) / math.log(beta)) - 1
        assert int(spikes[:, neuron].argmax()) == first
    assert not spikes[:, 2].any()


def test_without_leak_the_rate_is_current_over_threshold() -> None:
    soma = SpikingSoma(2, tau_mem=1e6, threshold=2.0)
    spikes = soma(torch.tensor([0.5, 1.5], dtype=torch.float64).expand(1, 4001, 2), Context())[0]
    assert spikes.mean(0).tolist() == pytest.approx([0.25, 0.75], abs=1e-3)


@pytest.mark.parametrize(
    ("surrogate", "slope"),
    [("atan", lambda u: 1 / (1 + (math.pi * u) ** 2)), ("fast_sigmoid", lambda u: 1 / (1 + 25 * abs(u)) ** 2)],
)
def test_surrogate_gradients_are_their_formulas(surrogate: str, slope) -> None:
    current = torch.linspace(-6, 8, 57, dtype=torch.float64).view(1, 1, 57).requires_grad_()
    spikes = SpikingSoma(57, 0.005, 1.0, surrogate)(current, Context())  # type: ignore[arg-type]
    gradient = torch.autograd.grad(spikes.sum(), current)[0].flatten().tolist()
    assert gradient == pytest.approx([slope(u - 1) for u in current.flatten().tolist()], rel=1e-6)
    assert torch.equal(spikes, (current > 1).double())


def test_chunks_stream_to_the_same_spikes() -> None:
    soma, current = SpikingSoma(4, label="s"), draw(2, 50, 4)
    whole, end = soma(current, context := Context()), context.next_state["s"]
    state: dict[str, Tensor] = {}
    parts = []
    for part in current.split([1, 20, 29], 1):
        context = Context(state=state)
        parts.append(soma(part, context))
        assert "s" not in state or context.state["s"] is state["s"]
        state = context.next_state
    assert torch.equal(torch.cat(parts, 1), whole)
    assert torch.equal(state["s"], end)
    assert not state["s"].requires_grad


def test_a_masked_step_takes_no_time() -> None:
    soma, current = SpikingSoma(4, label="s"), draw(1, 30, 4)
    mask = draw(1, 30, seed=5) > 0
    context, bare = Context(mask=mask, observables={}), Context(observables={})
    spikes = soma(current, context)
    packed = soma(current[mask][None], bare)
    assert torch.equal(spikes[mask][None], packed)
    assert not spikes[~mask].any()
    assert torch.equal(context.next_state["s"], bare.next_state["s"])
    torch.testing.assert_close(context.observables["s.rate"], bare.observables["s.rate"])  # type: ignore[index]
    torch.testing.assert_close(bare.observables["s.rate"], packed.float().mean(1))  # type: ignore[index]
    empty = Context(mask=torch.zeros(1, 30, dtype=torch.bool), observables={})
    soma(current, empty)
    assert not empty.observables["s.rate"].any()  # type: ignore[index]


def test_half_precision_moves_no_spike() -> None:
    soma, current = SpikingSoma(4), draw(2, 300, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = soma(current, Context())
    assert low.dtype == torch.bfloat16
    assert torch.equal(low.float(), soma(current.float(), Context()))


def test_building_somas_leaves_nothing_in_snntorch() -> None:
    instances = snntorch._neurons.neurons.SpikingNeuron.instances
    before = len(instances)
    SpikingSoma(4)(draw(1, 3, 4), Context())
    assert len(snntorch._neurons.neurons.SpikingNeuron.instances) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"surrogate": "atn"}, "Did you mean 'atan'"),
        ({"tau_mem": 0.0}, "above 0"),
        ({"threshold": -1.0}, "above 0"),
        ({"dt": 0.0}, "above 0"),
    ],
)
def test_wrong_options_are_usage_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SpikingSoma(4, **options)  # type: ignore[arg-type]


def test_energy_is_horowitzs_arithmetic() -> None:
    assert energy_joule(1e12) == pytest.approx(4.6)
    assert energy_joule(0, 1e12) == pytest.approx(0.9)
    assert energy_joule(2, 3) == pytest.approx(2 * 4.6e-12 + 3 * 0.9e-12)


def sample(padded: bool) -> Batch:
    torch.manual_seed(1)
    mask = torch.arange(9) < torch.tensor([[9], [4], [7]]) if padded else None
    return Batch(torch.randint(1, 30, (3, 9)), torch.randint(3, (3,)), mask)


def build(name: str = "spiking_neuronsv2", **options: object):
    torch.manual_seed(0)
    wired = {"input": InputSpec("tokens", 16, 30), "output": OutputSpec("label", 3)}
    return MODELS.build(name, **wired, **{"width": 16, "heads": 2, **options})


@pytest.mark.parametrize("padded", [False, True])
def test_counts_are_those_of_the_spikes_themselves(padded: bool) -> None:
    model, batch = build(somas=24, dropout=0.5), sample(padded)
    trains: list[Tensor] = []
    hooks = [m.register_forward_hook(lambda m, i, out: trains.append(out)) for m in model.modules()
             if isinstance(m, SpikingSoma)]  # fmt: skip
    counts = spike_counts(model, batch)
    assert model.training  # the mode is given back
    for hook in hooks:
        hook.remove()
    steps = 20 / 3 if padded else 9
    fired = sum(float(train.sum()) for train in trains) / 3
    assert len(trains) == 2
    assert fired > 0
    assert counts.spikes == pytest.approx(fired)
    assert counts.acs == pytest.approx(16 * fired)
    assert counts.steps == pytest.approx(steps)
    assert counts.sites == pytest.approx(2 * 24 * steps)
    assert counts.rate == pytest.approx(fired / (2 * 24 * steps))
    assert counts.spikes_per_neuron == pytest.approx(fired / (2 * 24))


def test_dense_macs_are_what_a_counter_sees_at_those_synapses() -> None:
    model, batch = build(somas=24), sample(padded=True)
    circuit = model.stages[1]
    seen = count_macs(lambda: [circuit.projection.slow(torch.zeros(3, 9, 24)) for _ in range(2)]) / 3
    counts = spike_counts(model, batch)
    assert counts.dense_macs == pytest.approx(seen)
    total = count_macs(lambda: model(batch)) / 3
    assert effective_macs(total, counts) == pytest.approx(total - seen)
    assert effective_macs(seen / 2, counts) == 0.0


def test_a_model_without_spikes_counts_none() -> None:
    counts = spike_counts(build("neuronsv2"), sample(padded=False))
    assert counts == (0, 0, 0, 0, 9)
    assert counts.rate == 0
