"""A global filter per channel, given by its spectrum over physical frequencies."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.model import Attention
from neurons.ops.long_convolution import long_convolution
from neurons.specs import Context, zero_masked


@ATTENTIONS.register("spectral")
class SpectralFilter(Attention):
    """``y_d = h_d * x_d`` over the whole sequence, O(T log T), both directions: (B, T, width) -> (B, T, width).

        H_d(f) = sum_m W_d,m phi_m(f),    h_d = inverse Fourier transform of H_d

    phi_m are the hats between knots in equal ratios from 1 / longest Hz to the Nyquist frequency, so slow rhythms are
    told apart as finely as fast ones; below the first knot the spectrum is constant. W is complex. The filter belongs
    to frequencies in Hz, not to bins of one length: its impulse response is the same in a longer sequence, and padding
    is silence. A transform over bins of one length (GFNet, FNet) has neither, and wraps around.

    The map is linear in x: content decides nothing. Every output needs all tokens, so there is no causal form.

    modes: knots.     dt: seconds per token.     longest: its inverse is the lowest knot; the response ends after twice
    as long on either side.
    Parameters: 2 modes width. Source: Rao et al. 2021 (global filter networks), Lee-Thorp et al. 2021 (FNet).
    """

    can_be_causal: ClassVar[bool] = False
    reads_content: ClassVar[bool] = False
    basis: Tensor

    def __init__(self, *, width: int, causal: bool, modes: int = 64, dt: float = 0.001, longest: float = 1.0) -> None:
        super().__init__()
        if causal:
            raise UsageError("attention 'spectral' cannot be causal: its filter hears both sides. Try: resonator")
        if modes < 2:
            raise UsageError(f"attention 'spectral' needs 2 knots or more, not modes={modes}. Try: modes=64")
        if not 0 < dt <= longest / 2:
            raise UsageError(f"the lowest knot needs 0 < 2 dt <= longest, not dt={dt:g} and longest={longest:g}")
        self.width, self.is_causal, self.modes, self.dt, self.longest = width, causal, modes, dt, longest
        self.spectrum = nn.Parameter(torch.randn(width, 2 * modes) * 0.5**0.5)
        made = torch.as_tensor(responses(modes, dt, longest), dtype=torch.float32)
        self.register_buffer("basis", made, persistent=False)  # follows from the options

    def forward(self, x: Tensor, context: Context) -> Tensor:
        self.whole_sequence(context)
        with torch.autocast(x.device.type, enabled=False):
            heard = zero_masked(x, context.mask).to(self.spectrum.dtype).transpose(1, 2)
            ahead, behind = self.response(x.shape[1])
            out = long_convolution(heard, ahead, behind).transpose(1, 2)
        return zero_masked(out.to(x.dtype), context.mask)

    def response(self, steps: int) -> tuple[Tensor, Tensor]:
        """What a token adds to those from itself on (width, steps), and to those before it, nearest first."""
        middle = self.basis.shape[1] // 2
        reach = min(steps - 1, middle)
        taps = self.spectrum @ self.basis[:, middle - reach : middle + reach + 1]
        ahead, behind = taps[:, reach:], taps[:, :reach].flip(-1)
        if reach == steps - 1:
            return ahead, behind
        rest = taps.new_zeros(self.width, steps - 1 - reach)
        return torch.cat([ahead, rest], -1), torch.cat([behind, rest], -1)

    def extra_repr(self) -> str:
        return f"{self.modes} knots from {1 / self.longest:g} to {0.5 / self.dt:g} Hz"


def knots(modes: int, dt: float, longest: float) -> np.ndarray:
    """Frequencies (modes,) in Hz, in equal ratios from 1 / longest to 1 / (2 dt)."""
    return np.geomspace(1 / longest, 0.5 / dt, modes)


def responses(modes: int, dt: float, longest: float) -> np.ndarray:
    """Impulse responses (2 modes, 2 R + 1) of the hats phi_m (even), then of i phi_m (odd), at lags -R .. R,
    R = 2 longest / dt."""
    reach = max(1, round(2 * longest / dt))
    length = 2 * reach + 2
    bins = np.fft.rfftfreq(length, dt)
    hats = np.stack(
        [np.interp(np.log(bins.clip(1e-300)), np.log(knots(modes, dt, longest)), row) for row in np.eye(modes)]
    )
    made = np.fft.irfft(np.concatenate([hats, 1j * hats]), length)
    return np.concatenate([made[:, length - reach :], made[:, : reach + 1]], 1)
