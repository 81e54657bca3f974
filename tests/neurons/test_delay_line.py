"""Delay lines against torch's depthwise convolution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from neurons.dendrites.delay_line import DelayLine
from neurons.errors import UsageError
from neurons.specs import Context

BATCH, STEPS, WIDTH = 3, 11, 5


def line(taps: int, causal: bool) -> DelayLine:
    torch.manual_seed(0)
    made = DelayLine(width=WIDTH, taps=taps, causal=causal).double()
    torch.nn.init.normal_(made.weight)
    return made


def signal(steps: int = STEPS, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, steps, WIDTH, generator=generator, dtype=torch.float64)


def convolved(x: Tensor, weight: Tensor, causal: bool) -> Tensor:
    """Torch's cross-correlation runs forward in time, so the kernel is the taps in reverse."""
    taps = weight.shape[0]
    ahead = 0 if causal else (taps - 1) // 2
    padded = F.pad(x.transpose(1, 2), (taps - 1 - ahead, ahead))
    return F.conv1d(padded, weight.flip(0).T.unsqueeze(1), groups=x.shape[2]).transpose(1, 2)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("taps", [2, 3, 4, 7])
@pytest.mark.parametrize("steps", [1, 2, STEPS])
def test_equals_a_depthwise_convolution_with_gradients(taps: int, causal: bool, steps: int) -> None:
    made, x = line(taps, causal), signal(steps).requires_grad_()
    y, wanted = made(x, Context()), convolved(x, made.weight, causal)
    torch.testing.assert_close(y, wanted)
    weights = signal(steps, seed=2)
    found = torch.autograd.grad((y * weights).sum(), [x, made.weight])
    expected = torch.autograd.grad((wanted * weights).sum(), [x, made.weight])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("causal", [True, False])
def test_starts_as_the_identity(causal: bool) -> None:
    x = signal().float()
    assert torch.equal(DelayLine(width=WIDTH, taps=4, causal=causal)(x, Context()), x)


@pytest.mark.parametrize("causal", [True, False])
def test_padding_changes_nothing(causal: bool) -> None:
    made, x = line(4, causal), signal()
    mask = torch.arange(STEPS) < torch.tensor([[STEPS], [6], [1]])
    out = made(x.masked_fill(~mask[..., None], 1e6), Context(mask=mask))
    assert (out[~mask] == 0).all()
    for row, length in enumerate(mask.sum(1).tolist()):
        torch.testing.assert_close(out[row, :length], made(x[row : row + 1, :length], Context())[0])


def test_the_future_is_not_heard() -> None:
    made, x = line(4, True), signal()
    changed = torch.cat([x[:, :6], signal(seed=3)[:, 6:]], 1)
    assert torch.equal(made(x, Context())[:, :6], made(changed, Context())[:, :6])


@pytest.mark.parametrize("pieces", [[1] * STEPS, [2, 1, 5, 3]])
def test_chunks_give_what_the_whole_gives(pieces: list[int]) -> None:
    made, x, state, out = line(4, True), signal(), {}, []
    for piece in x.split(pieces, 1):
        context = Context(state=state)
        out.append(made(piece, context))
        state = context.next_state
        assert state["delay"].shape == (BATCH, 3, WIDTH)
    torch.testing.assert_close(torch.cat(out, 1), made(x, Context()))


def test_one_tap_is_refused() -> None:
    with pytest.raises(UsageError, match="two taps"):
        DelayLine(width=4, taps=1, causal=True)
