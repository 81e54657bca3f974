"""Receptive-field ablation, against windows that are run one by one."""

from __future__ import annotations

import pytest
import torch

import baselines  # noqa: F401 - extends MODELS with the baselines
from baselines.blind import Blind
from baselines.config import resolve
from baselines.setup import setup
from learning import RULES
from neurons import MODELS
from neurons.errors import UsageError
from neurons.model import Model
from neurons.specs import Batch, Context, InputSpec, OutputSpec


def build(name: str, kind: str = "tokens", output: str = "label", **options: object) -> Model:
    torch.manual_seed(0)
    size = 11 if kind == "tokens" else 3
    input = InputSpec(kind, length=12, size=size)  # type: ignore[arg-type]
    model: Model = MODELS.build(name, input=input, output=OutputSpec(output, 4), width=16, layers=1, **options)  # type: ignore[arg-type]
    return model.eval()


def sample(kind: str) -> Batch:
    random = torch.Generator().manual_seed(1)
    x = torch.randint(1, 11, (3, 10), generator=random) if kind == "tokens" else torch.randn(3, 10, 3, generator=random)
    mask = torch.arange(10) < torch.tensor([10, 7, 3])[:, None]
    return Batch(x, torch.tensor([0, 1, 3]), mask)


@pytest.mark.parametrize("kind", ["tokens", "features"])
@pytest.mark.parametrize("name", ["neuronsv2", "transformer"])
def test_it_is_the_model_on_every_window_alone_pooled_over_all(name: str, kind: str) -> None:
    inner, batch = build(name, kind), sample(kind)
    blind = Blind(inner, beyond=4).eval()
    assert batch.mask is not None
    for row in range(len(batch)):
        length = int(batch.mask[row].sum())
        states = []
        for start in range(0, length, 4):
            x = batch.x[row : row + 1, start : min(start + 4, length)]
            context = Context()
            for stage in inner.stages[:-1]:
                x = stage(x, context)
            states.append(x)
        expected = inner.readout(torch.cat(states, 1), Context())[0]
        torch.testing.assert_close(blind(batch)[row], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["tokens", "features"])
@pytest.mark.parametrize("name", ["neuronsv2", "transformer", "s4d"])
def test_of_a_pair_both_sequences_are_cut_and_then_compared(name: str, kind: str) -> None:
    torch.manual_seed(0)
    input = InputSpec(kind, length=12, size=11 if kind == "tokens" else 3, pair=True)  # type: ignore[arg-type]
    inner = MODELS.build(name, input=input, output=OutputSpec("label", 4), width=16, layers=1).eval()
    single = sample(kind)
    assert single.mask is not None
    mask = torch.stack([single.mask, single.mask.flip(0)], 1)
    batch = Batch(torch.stack([single.x, single.x.flip(0)], 1), single.y, mask)
    blind = Blind(inner, beyond=4).eval()
    pooled = []
    for row in range(len(batch)):
        for which in (0, 1):
            length = int(mask[row, which].sum())
            states = []
            for start in range(0, length, 4):
                x = batch.x[row : row + 1, which, start : min(start + 4, length)]
                context = Context()
                x = inner.stages[0].stage(x, context)
                for stage in inner.stages[1:-1]:
                    x = stage(x, context)
                states.append(x)
            pooled.append(torch.cat(states, 1).mean(1))
    head = inner.stages[-1]
    first, second = head.readout.norm(torch.cat(pooled)).unflatten(0, (-1, 2)).unbind(1)
    compared = torch.cat([first, second, first * second, first - second], -1)
    expected = head.readout.linear(torch.nn.functional.gelu(head.compare(compared)))
    torch.testing.assert_close(blind(batch), expected, rtol=1e-4, atol=1e-5)
    loss = blind.loss(batch)
    wanted = torch.nn.functional.cross_entropy(expected, batch.y, reduction="sum")
    torch.testing.assert_close(loss.objective, wanted, rtol=1e-4, atol=1e-4)
    whole = Batch(batch.x, batch.y)
    torch.testing.assert_close(
        blind.loss(whole).objective,
        torch.nn.functional.cross_entropy(blind(whole), batch.y, reduction="sum"),
    )


@pytest.mark.parametrize("attention", ["gamma", "softmax", "fourier"])
def test_what_lies_beyond_a_window_reaches_it_by_the_mean_alone(attention: str) -> None:
    """Of a stage before the readout, tokens of other windows change nothing; without the ablation they do."""
    inner, batch = build("neuronsv2" if attention == "gamma" else "transformer", attention=attention), sample("tokens")
    batch = Batch(batch.x, batch.y)
    other = Batch(torch.cat([batch.x[:, :4], batch.x[:, 4:].flip(1)], 1), batch.y)

    def start(model: Model, batch: Batch) -> torch.Tensor:
        x, context = batch.x, model.context(batch)
        for stage in model.stages[:-1]:
            x = stage(x, context)
        return x.reshape(len(batch), -1, x.shape[-1])[:, :4]

    blind = Blind(inner, beyond=4).eval()
    torch.testing.assert_close(start(blind, batch), start(blind, other), rtol=0, atol=1e-6)
    assert (start(inner, batch) - start(inner, other)).abs().max() > 1e-4


def test_loss_is_that_of_its_logits_and_predictive_coding_agrees_with_backprop() -> None:
    blind, batch = Blind(build("neuronsv2"), beyond=4), sample("tokens")
    blind.eval()
    expected = torch.nn.functional.cross_entropy(blind(batch), batch.y, reduction="sum")
    torch.testing.assert_close(blind.loss(batch).objective, expected)
    found = []
    for rule in (RULES.build("backprop"), RULES.build("predictive-coding", variant="zil")):
        rule.step(blind, batch)
        found.append([p.grad.clone() for p in blind.parameters() if p.grad is not None])
    assert len(found[0]) == len(list(blind.parameters()))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_parameters_and_state_are_those_of_the_model_each_once() -> None:
    inner = build("neuronsv2")
    counts, total = inner.parameter_counts(), sum(v.numel() for v in inner.state_dict().values())
    blind = Blind(inner, beyond=4)
    assert blind.parameter_counts() == counts
    assert sum(v.numel() for v in blind.state_dict().values()) == total
    assert (blind.name, blind.width) == ("neuronsv2", 16)


def test_refusals_are_one_line() -> None:
    with pytest.raises(UsageError, match=r"^[^\n]*predicts tokens[^\n]*$"):
        Blind(build("neuronsv2", output="token"), beyond=4)
    with pytest.raises(UsageError, match=r"^[^\n]*at least one token[^\n]*$"):
        Blind(build("neuronsv2"), beyond=0)
    flat = MODELS.build("mlp", input=InputSpec("features", length=12, size=3), output=OutputSpec("label", 4))
    with pytest.raises(UsageError, match="'mlp' reads whole sequences of one length"):
        Blind(flat, beyond=4)


def test_a_configuration_builds_it() -> None:
    config = resolve(task="digits", model="neuronsv2", rule="backprop", blind_beyond=2).config
    assert isinstance(setup(config).model, Blind)
    assert not isinstance(setup(config | {"blind_beyond": None}).model, Blind)
