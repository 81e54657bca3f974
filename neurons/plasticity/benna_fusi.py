"""Benna and Fusi's chain: a weight as the first of a row of beakers, each larger and slower than the last (2016).

    u_0 += update,    then    C_k u_k += f_(k-1) - f_k,    f_k = alpha 2^-k (u_k - u_(k+1)),    C_k = 2^k
    k = 0 .. m-1,    f_(-1) = 0,    u_m = 0: the last beaker leaks

What u_0 still shows of an update falls as age^-1/2 up to about 4^m / alpha steps (0.75, 0.285, 0.095, 0.030, 0.0095
after 1, 10, .., 10^4 steps for m = 8, alpha = 1/4): no decay of bounded weights that go on learning is slower. The
chain needs no signal that says when to consolidate.

A state is (m, *parameter's shape), the deviation from the weight at the start; every function is pure.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neurons.errors import UsageError


def start(weight: Tensor, *, beakers: int = 8) -> Tensor:
    """The empty chain of ``weight``: zeros (beakers, *shape). UsageError for fewer than one."""
    if beakers < 1:
        raise UsageError(f"a Benna-Fusi chain needs one beaker or more, not {beakers}")
    return torch.zeros_like(weight).expand(beakers, *weight.shape).clone()


def advance(chain: Tensor, update: Tensor, *, alpha: float = 0.25) -> Tensor:
    """The chain one step after ``update`` (the parameter's shape) was written; the weight is its start plus
    ``chain[0]``. UsageError unless 0 < alpha < 1, where the explicit step is stable."""
    if not 0 < alpha < 1:
        raise UsageError(f"a Benna-Fusi chain flows by alpha between 0 and 1, not {alpha}. Try: alpha=0.25")
    levels = torch.cat([(chain[0] + update).unsqueeze(0), chain[1:], torch.zeros_like(chain[:1])])
    size = 2.0 ** torch.arange(len(chain), dtype=chain.dtype, device=chain.device)
    size = size.view(-1, *[1] * update.dim())
    flow = alpha / size * (levels[:-1] - levels[1:])
    arriving = torch.cat([torch.zeros_like(flow[:1]), flow[:-1]])
    return levels[:-1] + (arriving - flow) / size
