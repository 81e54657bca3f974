"""Pairs through every model: against its stages run on either sequence alone, and the comparison written out here."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import baselines  # noqa: F401 - extends MODELS with the baselines
from learning import RULES
from neurons import MODELS
from neurons.errors import UsageError
from neurons.model import Model
from neurons.specs import Batch, Context, InputSpec, OutputSpec
from neurons.spiking.energy import spike_counts

LENGTH, SYMBOLS, FEATURES = 12, 11, 5
INPUTS = {
    "tokens": InputSpec("tokens", length=LENGTH, size=SYMBOLS, pair=True),
    "features": InputSpec("features", length=LENGTH, size=FEATURES, pair=True),
}


def cases() -> list[tuple[str, str]]:
    found = []
    for name in MODELS.names():
        for kind, input in INPUTS.items():
            try:
                MODELS.build(name, input=replace(input, pair=False), output=OutputSpec("label", 3))
            except UsageError:
                continue
            found.append((name, kind))
    return found


CASES = cases()
every = pytest.mark.parametrize(("name", "kind"), CASES, ids=["-".join(case) for case in CASES])


def build(name: str, kind: str) -> Model:
    torch.manual_seed(0)
    return MODELS.build(name, input=INPUTS[kind], output=OutputSpec("label", 3)).eval()


def sample(kind: str, count: int = 4) -> Batch:
    random = torch.Generator().manual_seed(1)
    y = torch.randint(0, 3, (count,), generator=random)
    if kind == "features":
        return Batch(torch.rand(count, 2, LENGTH, FEATURES, generator=random), y)
    x = torch.randint(1, SYMBOLS, (count, 2, LENGTH), generator=random)
    lengths = torch.randint(3, LENGTH + 1, (count, 2), generator=random)
    return Batch(x, y, torch.arange(LENGTH) < lengths[..., None])


@every
def test_a_pair_is_what_its_two_sequences_are_alone_then_compared(name: str, kind: str) -> None:
    model, batch = build(name, kind), sample(kind)
    logits = model(batch)
    assert logits.shape == (4, 3)
    head = model.readout
    alone = []
    for which in (0, 1):
        mask = None if batch.mask is None else batch.mask[:, which]
        context = Context(mask=mask, keep_state=False)
        x = model.stages[0].stage(batch.x[:, which], context)
        for stage in model.stages[1:-1]:
            x = stage(x, context)
        alone.append(head.readout.norm(head.readout.pooled(x, mask)))
    first, second = alone
    by_hand = torch.cat([first, second, first * second, first - second], 1)
    expected = head.readout.linear(F.gelu(head.compare(by_hand)))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    loss = model.loss(batch)
    torch.testing.assert_close(
        loss.objective, F.cross_entropy(expected, batch.y, reduction="sum"), rtol=1e-4, atol=1e-4
    )
    assert loss.count == 4


@every
def test_every_parameter_of_a_model_of_pairs_gets_gradient(name: str, kind: str) -> None:
    model, batch = build(name, kind).train(), sample(kind)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.rsplit(".", 1)[-1] == "gate":
            torch.nn.init.constant_(parameter, 0.1)
    model.loss(batch).objective.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_padding_behind_either_sequence_changes_nothing() -> None:
    model, batch = build("transformer", "tokens"), sample("tokens")
    shorter = replace(batch, x=batch.x[..., :10], mask=batch.mask[..., :10] & torch.ones(4, 2, 10, dtype=torch.bool))
    longer = replace(
        batch,
        x=torch.where(torch.arange(12) < 10, batch.x, 7),
        mask=batch.mask & (torch.arange(12) < 10),
    )
    torch.testing.assert_close(model(shorter), model(longer), rtol=1e-4, atol=1e-5)


def test_rules_take_pairs_and_zil_gives_backpropagation_s_gradient() -> None:
    gradients = {}
    for rule, options in (("backprop", {}), ("predictive-coding", {"variant": "zil"})):
        model = build("transformer", "tokens")
        report = RULES.build(rule, **options).step(model, sample("tokens"))
        assert report.loss.count == 4
        gradients[rule] = [p.grad.clone() for p in model.parameters()]
    for one, other in zip(gradients["backprop"], gradients["predictive-coding"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_spikes_of_pairs_are_counted_over_both_sequences() -> None:
    model, batch = build("spiking_neuronsv2", "tokens"), sample("tokens")
    counts = spike_counts(model, batch)
    assert counts.steps == batch.mask.sum() / 4
    single = MODELS.build(
        "spiking_neuronsv2", input=replace(INPUTS["tokens"], pair=False), output=OutputSpec("label", 3)
    )
    single.stages = nn.ModuleList([model.stages[0].stage, *model.stages[1:-1], model.readout.readout])
    alone = spike_counts(single, Batch(batch.x.flatten(0, 1), batch.y.repeat(2), batch.mask.flatten(0, 1)))
    assert counts.spikes == pytest.approx(2 * alone.spikes)
    assert counts.rate == pytest.approx(alone.rate)


def test_next_tokens_of_pairs_are_refused() -> None:
    with pytest.raises(UsageError, match="pairs are answered by a label"):
        MODELS.build("transformer", input=INPUTS["tokens"], output=OutputSpec("token", SYMBOLS))
