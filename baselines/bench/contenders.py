"""What is measured: the operations themselves on ready heads, and whole mixers with their projections."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.bench.clock import Call, passes
from baselines.bench.setting import OPS, Setting
from baselines.models.linear_attention import linear_attention
from neurons import ATTENTIONS
from neurons.model import Attention
from neurons.ops.coherence import coherence_attention
from neurons.specs import Context

Group = Literal["operation", "mixer"]
REFERENCE: dict[str, str] = {"operation": "sdpa", "mixer": "softmax"}
MATRIX_BYTES = 2**29  # largest score matrix that is still built


@dataclass(frozen=True)
class Contender:
    """``forward()`` makes the output; ``leaves`` are what it is differentiated by, parameters among them."""

    name: str
    forward: Callable[[], Tensor]
    leaves: tuple[Tensor, ...]
    parameters: tuple[Tensor, ...] = ()

    def call(self, phase: str) -> Call:
        return passes(phase, self.forward, self.leaves)


def names(group: Group, setting: Setting, causal: bool) -> list[str]:
    """The chosen contenders of ``group`` that have such a form; the reference among them unless none is chosen."""
    every = list(OPS) if group == "operation" else ATTENTIONS.names()
    able = [name for name in every if not causal or _can_be_causal(group, name)]
    chosen = [name for name in able if setting.wants(name)]
    reference = REFERENCE[group]
    return chosen if reference in chosen or not chosen else [reference, *chosen]


def _can_be_causal(group: Group, name: str) -> bool:
    if group == "operation":
        return name != "fourier"
    return bool(getattr(ATTENTIONS.get(name), "can_be_causal", True))


def refusal(name: str, setting: Setting, length: int) -> str | None:
    """Why ``name`` is not measured at ``length``, or None."""
    matrix = 4 * setting.batch * setting.heads * length**2
    if name == "naive" and matrix > MATRIX_BYTES:
        return f"its matrix takes {matrix / 2**30:.3g} GiB, over the limit of {MATRIX_BYTES / 2**30:.3g} GiB"
    return None


def contender(group: Group, name: str, setting: Setting, length: int, causal: bool) -> Contender:
    """Made from seed 0: standard normal values, uniform phases."""
    generator = torch.Generator().manual_seed(0)
    device = torch.device(setting.device)
    if group == "mixer":
        mixer = build_mixer(name, setting, causal)
        x = torch.randn(setting.batch, length, setting.width, generator=generator).to(device).requires_grad_()
        parameters = tuple(mixer.parameters())
        return Contender(name, lambda: mixer(x, Context()), (x, *parameters), parameters)
    shape = (setting.batch, setting.heads, length, setting.width // setting.heads)
    value = torch.randn(shape, generator=generator).to(device).requires_grad_()
    if name == "coherence":
        phase = (2 * math.pi * torch.rand(shape[:3], generator=generator)).to(device).requires_grad_()
        return Contender(name, lambda: coherence_attention(phase, value, causal=causal), (phase, value))
    if name == "fourier":
        return Contender(name, lambda: torch.fft.fft2(value, norm="ortho").real, (value,))
    query, key = (torch.randn(shape, generator=generator).to(device).requires_grad_() for _ in range(2))
    form: dict[str, Callable[..., Tensor]] = {
        "sdpa": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal),
        "naive": lambda q, k, v: softmax_attention(q, k, v, causal=causal),
        "linear": lambda q, k, v: linear_attention(q, k, v, causal=causal)[0],
    }
    return Contender(name, lambda: form[name](query, key, value), (query, key, value))


def build_mixer(name: str, setting: Setting, causal: bool) -> Attention:
    """The registered attention at the setting's width and, where it has heads, as many."""
    torch.manual_seed(0)
    heads = {"heads": setting.heads} if "heads" in ATTENTIONS.entry(name).defaults() else {}
    built: Attention = ATTENTIONS.build(name, width=setting.width, causal=causal, **heads)
    return built.to(setting.device).eval()


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    """Softmax attention as it is written down, with its matrix (B, H, T, T) in memory."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    return scores.softmax(-1) @ value
