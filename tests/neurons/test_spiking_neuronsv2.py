"""The spiking model: what its spikes carry, what each option does, and that it learns by backprop and in stages."""

from __future__ import annotations

import pytest
import torch

from learning import RULES
from learning.rules.probe import gradient_cosine
from neurons import MODELS
from neurons.errors import UsageError
from neurons.models.neuronsv2 import Circuit
from neurons.models.spiking_neuronsv2 import SpikingNeuronsV2
from neurons.specs import Batch, InputSpec, OutputSpec

INPUT, OUTPUT = InputSpec("tokens", 16, 30), OutputSpec("label", 3)


def build(output: OutputSpec = OUTPUT, **options: object) -> SpikingNeuronsV2:
    torch.manual_seed(0)
    return MODELS.build("spiking_neuronsv2", input=INPUT, output=output, **{"width": 16, "heads": 2, **options}).eval()


def batch(count: int = 4, length: int = 9) -> Batch:
    random = torch.Generator().manual_seed(1)
    x = torch.randint(1, 30, (count, length), generator=random)
    return Batch(x, torch.randint(3, (count,), generator=random), torch.ones(count, length, dtype=torch.bool))


def circuits(model: SpikingNeuronsV2) -> list[Circuit]:
    return [stage for stage in model.stages if isinstance(stage, Circuit)]


@pytest.mark.parametrize(
    "change",
    [{"kappa": 1.0}, {"heads": 4}, {"branches": 2}, {"somas": 8}, {"dt": 0.01}, {"tau_mem": 0.02}, {"threshold": 0.5}],
)
def test_every_choice_changes_the_logits(change: dict[str, object]) -> None:
    assert not torch.allclose(build()(batch()), build(**change)(batch()), atol=1e-6)


def test_the_surrogate_changes_gradients_only() -> None:
    one, two = build(), build(surrogate="fast_sigmoid")
    assert torch.equal(one(batch()), two(batch()))
    for model in (one, two):
        model.loss(batch()).objective.backward()
    weights = [circuits(model)[0].dendrites.basal_branches.weight.grad for model in (one, two)]
    assert not torch.allclose(weights[0], weights[1])


def test_only_spikes_leave_the_somas() -> None:
    model, sent = build(), []
    for circuit in circuits(model):
        circuit.projection.slow.register_forward_pre_hook(lambda module, arguments: sent.append(arguments[0]))
    context = model.context(batch())
    context.observables = {}
    model(batch(), context)
    assert all(((spikes == 0) | (spikes == 1)).all() for spikes in sent)
    for index, spikes in enumerate(sent):
        rate = context.observables[f"circuit{index}.spikes.rate"]
        torch.testing.assert_close(rate, spikes.mean(1))
        assert 0.05 < rate.mean() < 0.6
    assert set(context.observables) == {f"circuit{i}.{key}" for i in (0, 1) for key in ("spikes.rate", "gamma.R")}


def test_silent_somas_leave_the_embedding_alone() -> None:
    model = build(threshold=1e6)
    embedding, *_, readout = model.stages
    context = model.context(batch())
    torch.testing.assert_close(model(batch()), readout(embedding(batch().x, context), context))


def test_the_attention_reaches_the_logits_through_the_spikes() -> None:
    model = build()
    before = model(batch())
    for circuit in circuits(model):
        circuit.attention.forward = lambda x, context: torch.zeros_like(x)  # type: ignore[method-assign]
    assert not torch.allclose(before, model(batch()), atol=1e-6)


def test_parameters_are_neuronsv2s_without_fast_weights() -> None:
    twin = MODELS.build(
        "neuronsv2", input=INPUT, output=OUTPUT, width=16, heads=2, delay=0, branches=4, activation="leaky_relu"
    )
    assert build().parameter_counts() == twin.parameter_counts()
    assert build().parameter_counts()["attention"] == 0


def test_at_least_one_layer() -> None:
    with pytest.raises(UsageError, match="at least one layer"):
        build(layers=0)


@pytest.mark.parametrize("output", [OUTPUT, OutputSpec("token", 30)], ids=["label", "token"])
def test_predictive_coding_trains_it_stage_by_stage(output: OutputSpec) -> None:
    model = build(output)
    sample = batch() if output.kind == "label" else Batch(batch().x, batch().x.roll(-1, 1), batch().mask)
    exact = RULES.build("predictive-coding", variant="zil")
    assert gradient_cosine(exact, model, sample)["cosine"] == pytest.approx(1.0, abs=1e-5)
    report = RULES.build("predictive-coding", steps=6, inference_rate=0.5, precision=25.0).step(model, sample)
    assert report.scalars["retries"] == 0
    assert report.scalars["energy"] < report.scalars["energy_start"]
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in model.parameters() if p.grad is not None)


def test_spikes_learn_what_the_readout_alone_cannot() -> None:
    """Order of two symbols: the mean over tokens that the readout sees is blind to it without the circuits."""
    torch.manual_seed(0)
    model = MODELS.build(
        "spiking_neuronsv2",
        input=InputSpec("tokens", 2, 3),
        output=OutputSpec("label", 2),
        **{"width": 16, "layers": 1, "heads": 2, "dropout": 0.0, "embedding_dropout": 0.0},
    )
    data = Batch(torch.tensor([[1, 2], [2, 1]]), torch.tensor([0, 1]), torch.ones(2, 2, dtype=torch.bool))
    with torch.no_grad():
        model.stages[0].position_gain.zero_()
    model.stages[0].requires_grad_(False)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(data).objective.backward()
        optimizer.step()
    assert model.eval()(data).argmax(1).tolist() == [0, 1]
