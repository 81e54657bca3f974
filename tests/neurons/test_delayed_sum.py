"""Shifted sums in blocks against the padded form, gradients too, however the blocks fall."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from neurons.ops import delayed_sum as module
from neurons.ops.delayed_sum import delayed_sum, delayed_sum_reference

BATCH, STEPS, WIDTH, TAPS = 3, 11, 4, 4


# a token at a time; three, so that a shift crosses blocks; a row; rows; all
@pytest.mark.parametrize("block", [1, 3 * WIDTH, STEPS * WIDTH, 2 * STEPS * WIDTH, 2**18])
@pytest.mark.parametrize("ahead", range(TAPS))
@pytest.mark.parametrize("masked", [False, True])
def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch, block: int, ahead: int, masked: bool) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    torch.manual_seed(0)
    x = torch.randn(BATCH, STEPS, WIDTH, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(TAPS, WIDTH, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(BATCH, STEPS) > 0.3 if masked else None
    wanted = delayed_sum_reference(x, weight, ahead, mask)
    torch.testing.assert_close(delayed_sum(x, weight, ahead, mask), wanted)
    with torch.no_grad():
        torch.testing.assert_close(delayed_sum(x, weight, ahead, mask), wanted)
    seed = torch.randn_like(wanted)
    found = torch.autograd.grad(delayed_sum(x, weight, ahead, mask), [x, weight], seed)
    torch.testing.assert_close(found, torch.autograd.grad(wanted, [x, weight], seed))
    if block == 3 * WIDTH:
        assert torch.autograd.gradcheck(lambda *args: delayed_sum(*args, ahead, mask), (x, weight))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_reference_is_a_depthwise_convolution(steps: int) -> None:
    torch.manual_seed(1)
    x, weight = torch.randn(2, steps, WIDTH).double(), torch.randn(3, WIDTH).double()
    for ahead in range(3):
        padded = F.pad(x.mT, (2 - ahead, ahead))
        wanted = F.conv1d(padded, weight.flip(0).T.unsqueeze(1), groups=WIDTH).mT
        torch.testing.assert_close(delayed_sum_reference(x, weight, ahead), wanted)
        torch.testing.assert_close(delayed_sum(x, weight, ahead), wanted)


def test_what_is_masked_may_be_anything() -> None:
    x = torch.randn(1, 6, WIDTH)
    mask = torch.tensor([[True, True, False, True, False, False]])
    weight = torch.randn(TAPS, WIDTH)
    spoilt = x.masked_fill(~mask[..., None], torch.nan)
    assert torch.equal(delayed_sum(spoilt, weight, 1, mask), delayed_sum(x, weight, 1, mask))
