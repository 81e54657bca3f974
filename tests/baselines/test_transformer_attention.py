"""The transformer with another attention in softmax's place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import baselines  # noqa: F401 - extends MODELS and ATTENTIONS with the baselines
from neurons import ATTENTIONS, MODELS
from neurons.errors import UsageError
from neurons.model import Attention, Model
from neurons.specs import Batch, Context, InputSpec, OutputSpec


def build(**options: object) -> Model:
    torch.manual_seed(0)
    model: Model = MODELS.build(
        "transformer", input=InputSpec("tokens", 12, 11), output=OutputSpec("label", 4), width=16, layers=1, **options
    )
    return model.eval()


@pytest.mark.parametrize("name", ["softmax", "linear", "fourier", "gamma"])
def test_the_block_is_its_equation_with_that_attention(name: str) -> None:
    model = build(attention=name)
    block = model.stages[1]
    assert isinstance(block.attention, Attention)
    assert type(block.attention) is ATTENTIONS.get(name)
    x, context = torch.randn(2, 9, 16), Context()
    y = x + block.attention(block.norm(x), context)
    expected = y + block.contract(nn.functional.gelu(block.expand(block.mlp_norm(y))))
    torch.testing.assert_close(block(x, Context()), expected)


def test_fnet_has_no_parameters_in_its_mixing_and_a_linear_transformer_as_many_as_softmax() -> None:
    counts = {name: build(attention=name).parameter_counts() for name in ("softmax", "linear", "fourier")}
    assert counts["fourier"]["attention"] == 0
    assert counts["linear"] == counts["softmax"]


def test_a_foreign_attention_starts_as_it_was_made() -> None:
    made = build(attention="latent").stages[1].attention
    torch.manual_seed(0)
    alone = ATTENTIONS.build("latent", width=16, causal=False)
    for one, two in zip(made.parameters(), alone.parameters(), strict=True):
        assert one.std().item() == pytest.approx(two.std().item(), rel=0.5)  # not GPT-2's 0.02


def test_an_option_that_the_attention_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="'fourier' has no option for heads: leave it at 4"):
        build(attention="fourier", heads=2)
    with pytest.raises(UsageError, match="'linear' has no option for attention_dropout"):
        build(attention="linear", attention_dropout=0.1)


def test_logits_of_real_tokens_do_not_depend_on_padding() -> None:
    x = torch.randint(1, 11, (2, 9))
    mask = torch.arange(9) < torch.tensor([9, 5])[:, None]
    for name in ("linear", "fourier"):
        model = build(attention=name)
        alone = model(Batch(x[1:, :5], torch.zeros(1, dtype=torch.int64)))
        both = model(Batch(x, torch.zeros(2, dtype=torch.int64), mask))
        torch.testing.assert_close(both[1:], alone, rtol=1e-5, atol=1e-5)
