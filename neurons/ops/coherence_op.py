"""Coherence attention as an operator of torch with a gradient of its own, also under torch.compile.

In eager mode an autograd.Function, which costs less per call; under the compiler the same two functions as operators
that it does not look into. A second derivative is not defined and raises; ``mode="dense"`` has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from neurons.errors import UsageError
from neurons.ops import coherence_full, coherence_scan
from neurons.ops.coherence_chunks import Plan
from neurons.ops.coherence_scan import Call, Results

FULL_ABOVE = 128  # tokens: above, one field is faster than the matrix of all pairs (measured, as DENSE_UP_TO)
FULL_ABOVE_BY_FEATURES = 72


def average(
    z: Tensor, v: Tensor, query: Tensor | None, mask: Tensor | None, state: Tensor | None, plan: Plan
) -> Tensor:
    """The average (B, H, N, D) of v by coherence of z (B, H, N, 2) with ``query``, of the shape of z, or with itself;
    mask (B, N), ``state`` from ``last_field``."""
    if torch.compiler.is_compiling():
        return _operator(z, v, query, mask, state, *_plain(plan))[0]
    return _Average.apply(z, v, query, mask, state, plan)


def last_field(z: Tensor, v: Tensor, mask: Tensor | None, state: Tensor | None, plan: Plan) -> Tensor:
    """:func:`coherence_scan.last_field`, without gradients."""
    z, v = z.detach(), v.detach()
    if torch.compiler.is_compiling():
        return _last_field(z, v, mask, state, *_plain(plan))
    return coherence_scan.last_field(z, v, mask, state, plan)


def _plain(plan: Plan) -> tuple[list[float], int, float, list[float], bool, float]:
    return [*plan.coefficients], plan.fast_order, plan.kappa, [*plan.leak], plan.causal, plan.floor


def _is_full(v: Tensor, plan: Plan) -> bool:
    above = FULL_ABOVE if plan.kappa else FULL_ABOVE_BY_FEATURES
    return not plan.causal and not plan.leak and v.shape[2] > above


def _forward(
    z: Tensor, v: Tensor, query: Tensor | None, mask: Tensor | None, state: Tensor | None, plan: Plan
) -> tuple[Results, tuple[Tensor, ...]]:
    with torch.autocast(v.device.type, enabled=False):
        if _is_full(v, plan):
            return coherence_full.forward(z, v, query, mask, plan), ()
        return coherence_scan.forward(z, v, query, mask, state, plan)


def _backward(
    grad: Tensor,
    z: Tensor,
    v: Tensor,
    query: Tensor | None,
    mask: Tensor | None,
    results: Sequence[Tensor],
    plan: Plan,
) -> tuple[Tensor, Tensor, Tensor | None]:
    out, inverse, past, future, exact, *kept = results
    with torch.autocast(v.device.type, enabled=False):
        if _is_full(v, plan):
            return coherence_full.backward(grad, z, v, query, mask, out, inverse, past, exact, plan)
        return coherence_scan.backward(grad, z, v, query, mask, out, inverse, past, future, exact, tuple(kept), plan)


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        v: Tensor,
        query: Tensor | None,
        mask: Tensor | None,
        state: Tensor | None,
        plan: Plan,
    ) -> Tensor:
        results, kept = _forward(z, v, query, mask, state, plan)
        ctx.save_for_backward(z, v, query, mask, *results, *kept)
        ctx.plan = plan
        return results[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True; what would follow is silently incomplete
            raise UsageError("coherence attention in mode 'series' has no second derivative. Try: mode='dense'")
        z, v, query, mask, *results = ctx.saved_tensors
        return *_backward(grad, z, v, query, mask, results, ctx.plan), None, None, None


@torch.library.custom_op("neurons::coherence", mutates_args=())
def _operator(
    z: Tensor,
    v: Tensor,
    query: Tensor | None,
    mask: Tensor | None,
    state: Tensor | None,
    coefficients: Sequence[float],
    fast_order: int,
    kappa: float,
    leak: Sequence[float],
    causal: bool,
    floor: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    plan = Plan(tuple(coefficients), fast_order, kappa, tuple(leak), causal, floor)
    return _forward(z, v, query, mask, state, plan)[0]


@_operator.register_fake
def _(z: Tensor, v: Tensor, query: Tensor | None, mask: Tensor | None, state: Tensor | None, *plain: Any) -> Results:
    plan = Plan(*plain)
    call = Call(z, v, query, mask, plan)
    groups, segments = call.cut
    full = _is_full(v, plan)
    count = 1 if full else len(segments) if v.shape[2] > call.chunk or state is not None else 0
    past = v.new_empty(count, *v.shape[:2], 2 * len(plan.coefficients) - 1, v.shape[3] + 1, dtype=call.wide)
    future = past.new_empty(0) if full else past.new_empty(0 if plan.causal else count, *past.shape[1:])
    flags = torch.empty(len(groups), dtype=torch.bool, device="cpu")
    return torch.empty_like(v), v.new_empty(*v.shape[:3], 1, dtype=call.near), past, future, flags


@torch.library.custom_op("neurons::coherence_backward", mutates_args=())
def _operator_backward(
    grad: Tensor,
    z: Tensor,
    v: Tensor,
    query: Tensor | None,
    mask: Tensor | None,
    results: Sequence[Tensor],
    coefficients: Sequence[float],
    fast_order: int,
    kappa: float,
    leak: Sequence[float],
    causal: bool,
    floor: float,
) -> tuple[Tensor, Tensor, Tensor]:
    plan = Plan(tuple(coefficients), fast_order, kappa, tuple(leak), causal, floor)
    dz, dv, dq = _backward(grad, z, v, query, mask, results, plan)
    return dz, dv, z.new_empty(0) if dq is None else dq


@_operator_backward.register_fake
def _(grad: Tensor, z: Tensor, v: Tensor, query: Tensor | None, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(z), torch.empty_like(v), z.new_empty(0) if query is None else torch.empty_like(query)


@torch.library.custom_op("neurons::coherence_last_field", mutates_args=())
def _last_field(
    z: Tensor,
    v: Tensor,
    mask: Tensor | None,
    state: Tensor | None,
    coefficients: Sequence[float],
    fast_order: int,
    kappa: float,
    leak: Sequence[float],
    causal: bool,
    floor: float,
) -> Tensor:
    plan = Plan(tuple(coefficients), fast_order, kappa, tuple(leak), causal, floor)
    return coherence_scan.last_field(z, v, mask, state, plan)


@_last_field.register_fake
def _(z: Tensor, v: Tensor, mask: Tensor | None, state: Tensor | None, *plain: Any) -> Tensor:
    call = Call(z, v, None, mask, Plan(*plain))
    return v.new_empty(*v.shape[:2], 2 * len(call.plan.coefficients) - 1, v.shape[3] + 1, dtype=call.wide)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Results) -> None:
    z, v, query, mask, _, *ctx.plan = inputs
    ctx.save_for_backward(z, v, query, mask, *output)


def _operator_gradient(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    z, v, query, mask, *results = ctx.saved_tensors
    dz, dv, dq = _operator_backward(grad, z, v, query, mask, results, *ctx.plan)
    return dz, dv, None if query is None else dq, *[None] * (2 + len(ctx.plan))


_operator.register_autograd(_operator_gradient, setup_context=_keep)
