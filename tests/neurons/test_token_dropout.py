"""Token dropout against what it says: whole tokens, the right share, nothing scaled, nothing in evaluation."""

from __future__ import annotations

import pytest
import torch

from neurons import MODELS
from neurons.errors import UsageError
from neurons.specs import Batch, InputSpec, OutputSpec
from neurons.token_dropout import TokenDropout


def test_whole_tokens_are_lost_in_the_stated_share_and_the_rest_is_untouched():
    torch.manual_seed(0)
    x = torch.randn(50, 200, 8)
    y = TokenDropout(0.3).train()(x)
    lost = (y == 0).all(-1)
    assert torch.equal(y[~lost], x[~lost])
    # 10,000 draws of .3: the standard error is .0046
    assert abs(float(lost.double().mean()) - 0.3) < 4 * 0.0046


def test_evaluation_and_a_share_of_zero_lose_nothing_and_draw_nothing():
    x = torch.randn(2, 3, 4)
    before = torch.get_rng_state()
    assert torch.equal(TokenDropout(0.5).eval()(x), x)
    assert torch.equal(TokenDropout(0.0).train()(x), x)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(UsageError, match="token_dropout"):
        TokenDropout(share)


@pytest.mark.parametrize("name", ["neuronsv2", "transformer"])
def test_models_lose_tokens_while_training_only(name):
    spec = {"input": InputSpec("tokens", 6, 11), "output": OutputSpec("label", 3)}
    options = {"width": 16, "layers": 1, "dropout": 0.0, "embedding_dropout": 0.0}
    torch.manual_seed(0)
    model = MODELS.build(name, **spec, **options, token_dropout=0.5)
    batch = Batch(torch.randint(1, 11, (4, 6)), torch.zeros(4, dtype=torch.int64))
    model.eval()
    assert torch.equal(model(batch), model(batch))
    model.train()
    assert not torch.equal(model(batch), model(batch))
