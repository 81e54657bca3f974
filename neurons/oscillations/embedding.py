"""First stage of NEURONSv2: what a token is, and when it came."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from neurons import PHASE_CODES
from neurons.errors import UsageError
from neurons.oscillations.phase_codes import PhaseCode
from neurons.oscillations.rhythm import equal_ratios, rhythm
from neurons.specs import Context, InputSpec, zero_masked
from neurons.token_dropout import TokenDropout


class TemporalEmbedding(nn.Module):
    """Token table or linear map of features, plus the phases of a bank of oscillators: (B, T[, F]) -> (B, T, width).

        x_i = E(token_i) + g * p_i,    t_i = i dt,
        p_i = sqrt(2) [cos 2 pi f_1 t_i, sin 2 pi f_1 t_i, cos 2 pi f_2 t_i, ...]

    The frequencies fall in equal ratios from ``high`` (fast gamma: neighbours differ) to ``low`` (slow waves: the first
    token differs from the thousandth), so the code exists for any length. ``g`` is a learned gain per channel. Index i
    counts from the first column, so padding stands on the right. Zeros at masked positions.

    Both summands start with unit and ``position`` root mean square: a stream of unit scale keeps the Jacobian of the
    layer norms that follow near 1, which settling needs (at a scale of .02 it is 50, and predictive coding diverges).
    The table holds E itself, N(0, 1 / width): an optimiser's step then counts sqrt(width) times (Vaswani et al. 2017).

    Streaming: the number of tokens that came before is read from ``context.state[label]`` and left, with these, in
    ``context.next_state[label]``.

    position: root mean square of the phases' summand at the start.
    dt: seconds per token.     dropout: on the sum.     token_dropout: share of tokens lost while training, whose
    phases stay.
    code: name of a phase code. Features in [0, 1] then enter as one spike train per feature, and the linear map has a
    weight per feature and spike slot. Tokens have no phase code (UsageError).

    Sources: Lisman & Jensen 2013 (theta-gamma code); Vaswani et al. 2017 (sinusoidal positions).
    """

    def __init__(
        self,
        input: InputSpec,
        *,
        width: int,
        dropout: float = 0.0,
        token_dropout: float = 0.0,
        position: float = 0.2,
        low: float = 0.5,
        high: float = 150.0,
        dt: float = 0.001,
        code: str | None = None,
        label: str = "embedding",
    ) -> None:
        super().__init__()
        if not 0 < low <= high:
            raise UsageError(f"position frequencies need 0 < low <= high, not {low:g} and {high:g} Hz. Try: low=0.5")
        if code is not None and input.kind == "tokens":
            raise UsageError(f"phase code '{code}' encodes features, and this input is tokens. Try: code=None")
        self.width, self.position, self.low, self.high, self.dt = width, position, low, high, dt
        self.label = label
        self.code: PhaseCode | None = None if code is None else PHASE_CODES.build(code)
        self.embed: nn.Embedding | nn.Linear
        if input.kind == "tokens":
            self.embed = nn.Embedding(input.size, width, padding_idx=input.pad if 0 <= input.pad < input.size else None)
            nn.init.normal_(self.embed.weight, std=width**-0.5)
            with torch.no_grad():
                self.embed._fill_padding_idx_with_zero()
        else:
            inputs = input.size * (1 if self.code is None else self.code.steps)
            self.embed = nn.Linear(inputs, width)
            nn.init.normal_(self.embed.weight, std=(inputs * width) ** -0.5)
            nn.init.zeros_(self.embed.bias)
        self.position_gain = nn.Parameter(torch.full((width,), position))
        self.dropout, self.token_dropout = nn.Dropout(dropout), TokenDropout(token_dropout)
        self.frequencies = equal_ratios((width + 1) // 2, high, low)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if self.code is not None:
            x = self.code.encode(x).movedim(0, -1).flatten(2)
        hidden = self.token_dropout(self.embed(x) * self.width**0.5)
        before = context.state.get(self.label)
        taken = torch.tensor(x.shape[1])
        context.next_state[self.label] = taken if before is None else before + taken
        known = before is None and not torch.compiler.is_compiling()
        made = _cached_code if known else _code
        code = made(self.frequencies, self.dt, x.shape[1], before, hidden.dtype, hidden.device)
        summed = torch.addcmul(hidden, self.position_gain, code[:, : self.width])
        return zero_masked(self.dropout(summed), context.mask)


def _code(
    frequencies: tuple[float, ...],
    dt: float,
    steps: int,
    start: Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """p_i of the tokens from ``start`` (0 if None) on, (steps, 2 * frequencies)."""
    with torch.inference_mode(False):  # what is cached serves training too
        cos, sin = rhythm(frequencies, dt, steps, 0 if start is None else start.cpu())
        return (torch.stack([cos.T, sin.T], -1).flatten(1) * 2**0.5).to(device, dtype)


_cached_code = lru_cache(maxsize=8)(_code)
