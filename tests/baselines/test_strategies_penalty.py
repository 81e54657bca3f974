"""EWC, SI and LwF against their equations."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny_stream import tiny_learner, tiny_model, tiny_stream, whole
from torch import Tensor
from torch.nn import functional as F

from baselines import flat
from baselines.active import ActiveLoss
from baselines.reservoir import rows
from baselines.strategies.ewc import EWC, _fisher_vectorised, fisher, fisher_by_sample
from baselines.strategies.lwf import LwF, distillation
from baselines.strategies.si import SI
from learning.rules.backprop import Backprop
from neurons import MODELS
from neurons.errors import UsageError
from neurons.specs import Batch, Context, InputSpec, OutputSpec


def brute_force(model: Any, batch: Batch, outputs: list[int], labels: str) -> Tensor:
    """One sample, one class, one backward pass at a time."""
    parameters = list(model.parameters())
    total = torch.zeros(sum(p.numel() for p in parameters))
    for x, y in zip(batch.x, batch.y, strict=True):
        for place, c in enumerate(outputs):
            log_p = F.log_softmax(model(Batch(x[None], y[None]))[0, outputs], dim=0)
            slopes = torch.autograd.grad(log_p[place], parameters)
            square = torch.cat([slope.flatten() for slope in slopes]) ** 2
            weight = float(log_p[place].detach().exp()) if labels == "model" else float(c == int(y))
            total += weight * square
    return total / len(batch)


@pytest.mark.parametrize("labels", ["model", "data"])
@pytest.mark.parametrize("outputs", [[2, 3], [0, 1, 2, 3], list(range(6))])
def test_fisher_against_a_loop(labels: Any, outputs: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baselines.strategies.ewc.CHUNK", 5 * 6 * 222)  # several chunks
    stream = tiny_stream("class")
    model, batch = tiny_model(stream, dropout=0.5).train(), whole(stream.tasks[1])
    found = fisher(model, batch, torch.tensor(outputs), labels=labels)
    assert model.training
    wanted = brute_force(model.eval(), batch, outputs, labels)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)  # an mlp's closed form
    general = _fisher_vectorised(model, batch, torch.tensor(outputs), labels)
    torch.testing.assert_close(general, wanted, rtol=1e-4, atol=1e-7)
    assert float(found.max()) > 1e-3


@pytest.mark.parametrize("frozen", ["first", "last", "biases"])
def test_fisher_of_what_is_trained_where_the_rest_is_frozen(frozen: str) -> None:
    stream = tiny_stream("class")
    model, batch = tiny_model(stream).eval(), whole(stream.tasks[1])
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    for layer in layers if frozen == "biases" else layers[:1] if frozen == "first" else layers[-1:]:
        for parameter in (layer.bias,) if frozen == "biases" else layer.parameters():
            parameter.requires_grad_(False)
    found = fisher(model, batch, torch.arange(6), labels="model")
    wanted = fisher_by_sample(model, batch, torch.arange(6), labels="model")
    assert len(found) == len(flat.values(model)) < sum(p.numel() for p in model.parameters())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


def test_fisher_of_a_model_that_torch_func_cannot_take() -> None:
    """Spiking surrogates have no vectorised form: the same numbers one by one."""
    stream = tiny_stream("class")
    options = {"input": stream.input, "output": stream.output}
    torch.manual_seed(0)
    spiking = MODELS.build("spiking_neuronsv2", **options)
    batch = rows(whole(stream.tasks[0]), slice(0, 2))
    found = fisher(spiking, batch, torch.tensor([0, 1]), labels="data")
    assert found.isfinite().all()
    assert float(found.max()) > 0
    assert spiking.training
    mlp, every = tiny_model(stream).eval(), torch.arange(6)
    for labels in ("model", "data"):
        one_by_one = fisher_by_sample(mlp, batch, every, labels=labels)
        torch.testing.assert_close(one_by_one, fisher(mlp, batch, every, labels=labels), rtol=1e-4, atol=1e-7)


def test_fisher_of_tokens_and_attention() -> None:
    """A transformer over padded rows: padding and fused attention do not change a sample's own gradient."""
    model = MODELS.build("transformer", input=InputSpec("tokens", 6, 9), output=OutputSpec("label", 3)).eval()
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6, [1, 1, 0, 0, 0, 0]], dtype=torch.bool)
    x = torch.randint(1, 9, (3, 6), generator=torch.Generator().manual_seed(0)).masked_fill(~mask, 0)
    batch, every = Batch(x, torch.tensor([0, 2, 1]), mask), torch.arange(3)
    found = fisher(model, batch, every, labels="model")
    torch.testing.assert_close(found, fisher_by_sample(model, batch, every, labels="model"), rtol=1e-3, atol=1e-7)


def test_fisher_is_not_the_square_of_the_mean_gradient() -> None:
    stream = tiny_stream("domain")
    model, batch = tiny_model(stream), whole(stream.tasks[0])
    Backprop().step(model, batch)
    exact = fisher(model, batch, torch.tensor([0, 1]), labels="data")
    assert float(exact.sum()) > 1.5 * float(flat.gradient(model).square().sum())


@pytest.mark.parametrize("decay", [None, 1.0, 0.5])
@pytest.mark.parametrize("scenario", ["task", "class"])
def test_ewc_adds_the_gradient_of_its_penalties(decay: float | None, scenario: str) -> None:
    stream = tiny_stream(scenario)
    model = tiny_model(stream)
    ewc = EWC(strength=7.0, decay=decay, samples=None)
    anchors, fishers = [], []
    for task in stream.tasks[:2]:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        ewc.after_task(model, task)
        outputs = {"task": list(task.outputs), "class": list(range(task.outputs[-1] + 1))}[scenario]
        anchors.append(flat.values(model))
        fishers.append(brute_force(model, whole(task), outputs, "model"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theta = flat.values(model).requires_grad_()
    if decay is None:
        terms = [(f * (theta - anchor) ** 2).sum() for f, anchor in zip(fishers, anchors, strict=True)]
    else:
        terms = [((decay * fishers[0] + fishers[1]) * (theta - anchors[1]) ** 2).sum()]
    (wanted,) = torch.autograd.grad(7.0 / 2 * sum(terms), theta)
    flat.set_gradient(model, torch.ones_like(theta.detach()))
    ewc.gradient(model, whole(stream.tasks[2]))
    torch.testing.assert_close(flat.gradient(model) - 1, wanted, rtol=1e-3, atol=1e-5)


def test_a_strong_spring_holds_the_old_task() -> None:
    """The stream of two opposite tasks: naive turns round, EWC stays, more so with more strength."""
    kept = []
    for strength in (0.0, 300.0, 30000.0):
        stream = tiny_stream("domain")
        learner = tiny_learner(stream, EWC(strength=strength, samples=None), steps=40)
        learner.fit(stream.tasks[0].split("train"), stream.tasks[0], lambda step: None)
        before = flat.values(learner.model)
        importance = learner.strategy.precision
        learner.fit(stream.tasks[1].split("train"), stream.tasks[1], lambda step: None)
        kept.append(float((importance * (flat.values(learner.model) - before) ** 2).sum()))
    assert kept[0] > 3 * kept[1] > 3 * kept[2]


def course(si: SI, model: Any, batch: Batch, task: Any, *, steps: int, lr: float) -> tuple[list[Tensor], list[Tensor]]:
    """Gradient descent with ``si`` looking on; parameters and task gradients at every step, recorded beside it."""
    thetas, slopes = [flat.values(model)], []
    si.before_task(model, task)
    for _ in range(steps):
        Backprop().step(model, batch)
        slopes.append(flat.gradient(model))
        si.gradient(model, batch)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(lr * parameter.grad)
        thetas.append(flat.values(model))
    return thetas, slopes


def test_si_gathers_the_fall_of_the_loss() -> None:
    """The path integral of the gradient is the difference of the potential: along small steps omega sums to L0 - L1."""
    stream = tiny_stream("domain")
    model, task = tiny_model(stream).double(), stream.tasks[0]
    batch = whole(task)
    batch = Batch(batch.x.double(), batch.y)
    si = SI(strength=1.0, damping=0.1)
    start = Backprop().step(model, batch).mean
    thetas, slopes = course(si, model, batch, task, steps=400, lr=0.005)
    drop = start - Backprop().step(model, batch).mean
    assert drop > 0.3
    moved = thetas[-1] - thetas[0]
    si.after_task(model, task)
    omega = si.state["importance"] * (moved**2 + 0.1)
    assert float(omega.sum()) == pytest.approx(drop, rel=0.01)
    by_hand = -sum(g * (after - before) for g, before, after in zip(slopes, thetas[:-1], thetas[1:], strict=True))
    torch.testing.assert_close(omega, by_hand)


def test_si_holds_by_its_surrogate_and_leaves_it_out_of_the_path() -> None:
    stream = tiny_stream("domain")
    model, task = tiny_model(stream).double(), stream.tasks[0]
    first, second = (Batch(whole(t).x.double(), whole(t).y) for t in stream.tasks[:2])
    si = SI(strength=3.0, damping=0.2)
    course(si, model, first, task, steps=20, lr=0.1)
    si.after_task(model, task)
    importance, anchor = si.state["importance"].clone(), flat.values(model)
    thetas, slopes = course(si, model, second, stream.tasks[1], steps=5, lr=0.1)
    theta = thetas[-1].clone().requires_grad_()
    (wanted,) = torch.autograd.grad(3.0 * (importance * (theta - anchor) ** 2).sum(), theta)
    flat.set_gradient(model, torch.zeros_like(anchor))
    si.gradient(model, second)
    torch.testing.assert_close(flat.gradient(model), wanted)
    si.state.pop("slope")
    si.after_task(model, stream.tasks[1])
    path = -sum(g * (after - before) for g, before, after in zip(slopes, thetas[:-1], thetas[1:], strict=True))
    torch.testing.assert_close(si.state["importance"], importance + path / ((thetas[-1] - anchor) ** 2 + 0.2))


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def test_distillation_is_the_tempered_divergence() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(4, 5)), rng.normal(size=(4, 5))
    heads = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]], bool)
    for temperature in (1.0, 2.0, 5.0):
        wanted = 0.0
        for row in range(4):
            for head in heads:
                p = softmax(old[row, head] / temperature)
                q = softmax(new[row, head] / temperature)
                wanted += temperature**2 * float((p * np.log(p / q)).sum()) / len(heads)
        found = distillation(torch.tensor(old), torch.tensor(new), torch.tensor(heads), temperature)
        assert float(found) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("scenario", "heads"),
    [
        ("task", [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]]),
        ("class", [[1, 1, 1, 1, 0, 0]]),
        ("domain", [[1, 1]]),
    ],
)
def test_lwf_keeps_the_answers_of_the_model_it_was(scenario: str, heads: list[list[int]]) -> None:
    stream = tiny_stream(scenario)
    learner = tiny_learner(stream, LwF(strength=0.7, temperature=3.0))
    for task in stream.tasks[:2]:
        learner.fit(task.split("train"), task, lambda step: None)
    model, lwf = learner.model, learner.strategy
    assert sorted(lwf.heads.int().tolist()) == sorted(heads)
    old = copy.deepcopy(model)
    lwf.before_task(model, stream.tasks[2])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    batch = lwf.batch(whole(stream.tasks[2]))
    loss = lwf.loss(ActiveLoss(model.readout, torch.ones(stream.output.size, stream.output.size, dtype=torch.bool)))
    x = model.stages[1](model.stages[0](batch.x, Context()), Context())
    seen = loss(x, batch)
    plain = model.readout.loss(x, batch)
    kept = distillation(old(batch), model(batch), torch.tensor(heads, dtype=torch.bool), 3.0)
    torch.testing.assert_close(seen.objective, plain.objective + 0.7 * kept)
    assert float(kept.detach()) > 0.1
    assert (float(seen.reported), seen.count) == (float(plain.reported), plain.count)


def test_what_needs_logits_is_for_streams() -> None:
    from baselines.strategies.derpp import DERPP

    stream = tiny_stream("class")
    lwf = LwF()
    lwf.teacher = tiny_model(stream).state_dict()
    for strategy in (lwf, DERPP()):
        with pytest.raises(UsageError, match="is for a stream of tasks"):
            strategy.loss(tiny_model(stream).readout.loss)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: EWC(strength=-1.0), "strength"),
        (lambda: EWC(decay=1.5), "decay between 0 and 1"),
        (lambda: EWC(samples=0), "samples at least 1"),
        (lambda: SI(damping=0.0), "damping above 0"),
        (lambda: LwF(temperature=0.0), "temperature above 0"),
    ],
)
def test_options_out_of_range_are_refused(build: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        build()
