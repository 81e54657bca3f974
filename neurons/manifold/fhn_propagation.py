"""Tokens drive a row of FitzHugh-Nagumo cells one after the other: memory along the sequence in O(n)."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.manifold.affine_scan import Matrix, affine_scan, anchored
from neurons.manifold.fitzhugh_nagumo import StepSize, rest_state
from neurons.model import Attention
from neurons.specs import Context, zero_masked

A, B, TAU = 0.7, 0.8, 12.5
CHUNK = 32  # tokens that one Newton solve covers


class Cells(NamedTuple):
    """Potential v and recovery w of the cells, (B, C) each, or (B, T, C) along the tokens."""

    v: Tensor
    w: Tensor


class Flow(NamedTuple):
    """The linear part over one token, ``s -> E s + F (I, a / tau)``; entries (C,)."""

    matrix: Matrix
    drive_v: Tensor
    drive_w: Tensor
    bias_v: Tensor
    bias_w: Tensor

    def inputs(self, stimulus: Tensor) -> Cells:
        return Cells(self.drive_v * stimulus + self.bias_v, self.drive_w * stimulus + self.bias_w)


def linear_flow(dt: Tensor) -> Flow:
    """Exact: E = exp(dt L), F = L^-1 (E - 1) for L = [[1, -1], [1 / tau, -b / tau]], of real eigenvalues m +- q."""
    m, q = (1 - B / TAU) / 2, math.sqrt((1 + B / TAU) ** 2 / 4 - 1 / TAU)
    c, s, det = torch.cosh(q * dt), torch.sinh(q * dt) / q, (1 - B) / TAU
    growth = torch.exp(m * dt)
    e = Matrix(growth * (c + s * (1 - m)), -growth * s, growth * s / TAU, growth * (c - s * (B / TAU + m)))
    v_rows, w_rows = (e.vv - 1, e.vw), (e.wv, e.ww - 1)  # E - 1, then L^-1 = [[-b / tau, 1], [-1 / tau, 1]] / det
    fvv, fvw = ((-B / TAU * v + w) / det for v, w in zip(v_rows, w_rows, strict=True))
    fwv, fww = ((-v / TAU + w) / det for v, w in zip(v_rows, w_rows, strict=True))
    return Flow(e, fvv, fwv, fvw * (A / TAU), fww * (A / TAU))


def cubic_flow(v: Tensor, dt: Tensor) -> Tensor:
    """Exact flow of v' = -v^3 / 3 over dt: ``v / sqrt(1 + 2 dt v^2 / 3)``, a contraction for every dt > 0."""
    return v * torch.rsqrt(1 + 2 / 3 * dt * v.square())


def resting(dt: Tensor) -> Cells:
    """Cells at rest that have had half of the cubic flow yet to come taken back; (C,) each."""
    v, w = rest_state(0.0, A, B)
    return Cells(cubic_flow(torch.full_like(dt, v), -dt / 2), torch.full_like(dt, w))


def propagate(
    stimulus: Tensor, start: Cells, dt: Tensor, *, solver: Literal["steps", "newton"] = "steps"
) -> tuple[Tensor, Cells]:
    """v (B, T, C) after each token, which holds its stimulus (B, T, C) for a time ``dt`` (C,), and the last cells.

    Strang splitting, second order in dt: half of the cubic flow, the linear flow, half of the cubic flow. Cells (start
    and end) stand between the two halves that meet: v is theirs after another half. Gradients are exact and cost one
    associative scan, for the chain is linear around its own trajectory. ``newton`` also finds the trajectory by such
    scans (DEER, Lim et al. 2024), CHUNK tokens at a time, as Newton steps around the last guess until nothing moves; it
    needs 8 to 18 of them where cells spike, so it pays only where a step is all launch cost.
    """
    flow = linear_flow(dt)
    start = Cells(*(part.expand(stimulus.shape[0], -1) for part in start))
    given = flow.inputs(stimulus)
    with torch.no_grad():
        path = Cells(*_path(*given, *start, dt, torch.stack(flow.matrix), solver))
    tangent, moved, _ = _chain(flow.matrix, dt, start, path)
    cells = Cells(*anchored(tangent, given.v + moved[0], given.w + moved[1], path))
    return cubic_flow(cells.v, dt / 2), Cells(cells.v[:, -1], cells.w[:, -1])


def _steps(e: Matrix, dt: Tensor, given: Cells, start: Cells) -> Cells:
    """Token after token."""
    (v, w), found = start, []
    for dv, dw in zip(given.v.unbind(1), given.w.unbind(1), strict=True):
        v, w = e.times(cubic_flow(v, dt), w)
        v, w = v + dv, w + dw
        found.append((v, w))
    return Cells(*(torch.stack(parts, 1) for parts in zip(*found, strict=True)))


def _newton(e: Matrix, dt: Tensor, given: Cells, start: Cells) -> Cells:
    """The same by Newton's method on chunks of tokens; after as many steps as tokens it is exact in any case."""
    parts = []
    for dv, dw in zip(given.v.split(CHUNK, 1), given.w.split(CHUNK, 1), strict=True):
        guess = Cells(*(part[:, None].expand_as(dv) for part in start))
        for _ in range(dv.shape[1]):
            last, guess = guess, _linearised(e, dt, Cells(dv, dw), start, guess)
            if (guess.v - last.v).abs().max() <= 1e-6 * guess.v.abs().max():
                break
        start = Cells(guess.v[:, -1], guess.w[:, -1])
        parts.append(guess)
    return Cells(*(torch.cat(both, 1) for both in zip(*parts, strict=True)))


def _linearised(e: Matrix, dt: Tensor, given: Cells, start: Cells, path: Cells) -> Cells:
    """One Newton step: the chain with its tangent at ``path``."""
    tangent, moved, before = _chain(e, dt, start, path)
    zero = torch.zeros_like(start.v)[:, None]  # the scan begins at zero: the start is wholly in the first input
    known = tangent.times(*(torch.cat([zero, part[:, 1:]], 1) for part in before))
    return Cells(*affine_scan(tangent, given.v + moved[0] - known[0], given.w + moved[1] - known[1]))


def _chain(e: Matrix, dt: Tensor, start: Cells, path: Cells) -> tuple[Matrix, tuple[Tensor, Tensor], Cells]:
    """Around ``path``: the tangent of a token's map (without gradient), what the map makes of the cells that enter the
    token, and these cells."""
    before = Cells(*(torch.cat([first[:, None], part[:, :-1]], 1) for first, part in zip(start, path, strict=True)))
    with torch.no_grad():
        slope = (1 + 2 / 3 * dt * before.v.square()).pow(-1.5)
        tangent = Matrix(e.vv * slope, e.vw.expand_as(slope), e.wv * slope, e.ww.expand_as(slope))
    return tangent, e.times(cubic_flow(before.v, dt), before.w), before


@torch.library.custom_op("neurons::fhn_path", mutates_args=())
def _path(
    given_v: Tensor, given_w: Tensor, v: Tensor, w: Tensor, dt: Tensor, matrix: Tensor, solver: str
) -> tuple[Tensor, Tensor]:
    """The trajectory, as an operator that the compiler doesn't look into (it would unroll the tokens)."""
    find = _newton if solver == "newton" else _steps
    return find(Matrix(*matrix), dt, Cells(given_v, given_w), Cells(v, w))


@_path.register_fake
def _(
    given_v: Tensor, given_w: Tensor, v: Tensor, w: Tensor, dt: Tensor, matrix: Tensor, solver: str
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(given_v), torch.empty_like(given_v)


@ATTENTIONS.register("fhn_propagation")
class FHNPropagation(Attention):
    """A row of FitzHugh-Nagumo cells that the tokens drive in turn: mixing along the sequence in O(n), by spikes.

        I_t = W x_t,   v' = v - v^3 / 3 - w + I_t,   w' = (v + 0.7 - 0.8 w) / 12.5   for dt,   y_t = U (v_t - v_rest)

    No query and no key: what a token leaves depends on the state the cells are in (excitable, spiking, refractory).
    dt = sigmoid(theta) / 2 per cell is learned. A causal layer goes on from chunk to chunk by the state of its cells,
    2 C numbers whatever the length. Not causal: two passes, from either end, averaged. Padding stands on the right.

    cells: C, None = width.     solver: how the trajectory is found, ``steps`` or ``newton``, see :func:`propagate`.
    label: of the cells' state.     Parameters: 2 D C + 2 C + D.
    Sources: FitzHugh 1961; Strang 1968; Rusch & Rus 2024 (LinOSS); Lim et al. 2024 (DEER).
    """

    def __init__(
        self,
        *,
        width: int,
        causal: bool,
        cells: int | None = None,
        solver: Literal["steps", "newton"] = "steps",
        label: str = "fhn_propagation",
    ) -> None:
        super().__init__()
        if solver not in ("steps", "newton"):
            raise UsageError(f"unknown solver '{solver}' of FHN propagation. Try: steps, newton")
        self.width, self.is_causal, self.cells, self.solver, self.label = width, causal, cells, solver, label
        count = width if cells is None else cells
        self.stimulus = nn.Linear(width, count)
        self.readout = nn.Linear(count, width)
        self.dt = StepSize(count)
        self.rest = rest_state(0.0, A, B)[0]

    def forward(self, x: Tensor, context: Context) -> Tensor:
        drive = self.stimulus(x)
        with torch.autocast(x.device.type, enabled=False):
            drive, dt = drive.to(torch.promote_types(drive.dtype, torch.float32)), self.dt()
            before: Cells | None = context.state.get(self.label) if self.is_causal else None
            v, last = propagate(drive, resting(dt) if before is None else before, dt, solver=self.solver)
            if self.is_causal:
                context.next_state[self.label] = Cells(last.v.detach(), last.w.detach())
            else:
                order, back = backwards(drive, context.mask)
                other, _ = propagate(drive.gather(1, order), resting(dt), dt, solver=self.solver)
                v = (v + other.gather(1, back)) / 2
        return zero_masked(self.readout((v - self.rest).to(x.dtype)), context.mask)


def backwards(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Indices (B, T, C) of the real tokens from the last to the first, then the padding; and their inverse."""
    steps = x.shape[1]
    order = torch.arange(steps - 1, -1, -1, device=x.device).expand(x.shape[0], -1)
    if mask is not None:
        order = order.gather(1, (~mask).long().flip(1).argsort(dim=1, stable=True))
    back = order.argsort(1)
    return order[..., None].expand_as(x), back[..., None].expand_as(x)
