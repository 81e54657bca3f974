"""Multiply-accumulates: torch's own counter, with the operators it does not know.

One MAC is two FLOPs. Matrix products, convolutions, attention, embedding bags with weights and Fourier transforms
count; elementwise work (activations, norms, softmax, cosines) does not, as is usual.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten


def count_macs(call: Callable[[], Any]) -> float:
    """MACs of everything torch computes in ``call()``, backward passes included."""
    counter = _Counter()
    with counter:
        call()
    return counter.flops / 2


class _Counter(TorchDispatchMode):
    """Adds up torch's formulas. FlopCounterMode itself hooks gradients to know the module it is in, and with that
    ``torch.autograd.grad`` of a local energy fails; we need the sum alone."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        known = FlopCounterMode(display=False, custom_mapping=_FORMULAS).flop_registry
        # in-place products are operators of their own, which torch does not list
        self.formulas = {**known, aten.baddbmm_: known[aten.baddbmm], aten.addmm_: known[aten.addmm]}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = self.formulas.get(func._overloadpacket)
        if formula is None:
            with self:  # inference mode hands over composites such as aten.linear whole
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        return out


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


def _bag(
    weight: Any,
    indices: Any,
    offsets: Any,
    scale: bool,
    mode: int,
    sparse: bool,
    per_sample: Any = None,
    *_: Any,
    **__: Any,
) -> int:
    """One MAC per weighted entry; a bag without weights only adds."""
    return 0 if per_sample is None else 2 * math.prod(indices) * weight[-1]


def _bag_backward(gradient: Any, indices: Any, *rest: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * math.prod(indices) * gradient[-1]


def _bag_weights_backward(gradient: Any, weight: Any, indices: Any, *_: Any, **__: Any) -> int:
    return 2 * math.prod(indices) * weight[-1]


def _complex_transform(x: Any, axes: Any, *_: Any, **__: Any) -> int:
    """5 N log2 N, the usual count of a complex transform of N points, for each one in the batch."""
    return round(5 * math.prod(x) * math.log2(math.prod(x[axis] for axis in axes)))


def _real_transform(x: Any, axes: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Half the complex transform over the real signal, which is the longer of input and output."""
    real = max(x, out_shape, key=math.prod)
    return _complex_transform(real, axes) // 2


def _triangular_solve(a: Any, b: Any, *_: Any, left: bool = True, **__: Any) -> int:
    """Half of the product with the full matrix."""
    n, columns = a[-1], math.prod(b) // a[-1]
    return n * n * columns


_FORMULAS = {
    aten.linalg_solve_triangular: _triangular_solve,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten._embedding_bag: _bag,
    aten._embedding_bag_forward_only: _bag,
    aten._embedding_bag_backward: _bag_backward,
    aten._embedding_bag_per_sample_weights_backward: _bag_weights_backward,
    aten._fft_c2c: _complex_transform,
    aten._fft_r2c: _real_transform,
    aten._fft_c2r: _real_transform,
}
