"""Decoding token by token: attention that carries a state, against softmax attention with its key-value cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.bench.contenders import build_mixer, names
from baselines.bench.setting import Setting
from baselines.models.attention import SoftmaxAttention
from neurons.errors import UsageError
from neurons.model import Attention
from neurons.ops.coherence import Trace
from neurons.specs import Context

TOKENS = 16  # decoded in one call
Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Decoder:
    """``run()`` decodes ``tokens`` tokens after a past that is remembered in ``state_bytes``; ``refusal`` says why it
    cannot."""

    run: Callable[[], Any]
    tokens: int
    state_bytes: int
    refusal: str | None = None


def decoders(setting: Setting, length: int) -> dict[str, Decoder]:
    """Every chosen mixer that has a causal form, after ``length`` tokens of noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(setting.batch, length + TOKENS, setting.width, generator=generator).to(setting.device)
    past, new = x[:, :length], x[:, length:]
    return {name: _decoder(build_mixer(name, setting, True), past, new) for name in names("mixer", setting, True)}


@torch.no_grad()
def _decoder(mixer: Attention, past: Tensor, new: Tensor) -> Decoder:
    def decode() -> None:
        step = start()
        for t in range(new.shape[1]):
            step(new[:, t : t + 1])

    if isinstance(mixer, SoftmaxAttention):
        cache = KeyValueCache(mixer, past, room=new.shape[1])
        start, held = cache.rewound, 2 * cache.keys[:, :, : past.shape[1]].nbytes
    else:
        context = Context()
        mixer(past, context)
        state = context.next_state
        held = sum(tensor.nbytes for tensor in tensors(state))
        if not held:
            return Decoder(decode, 1, 0, "it leaves no state to go on from")
        start = lambda: streaming(mixer, state)  # noqa: E731
    return Decoder(torch.no_grad()(decode), new.shape[1], held)


def streaming(mixer: Attention, state: dict[str, Any]) -> Step:
    """A step (B, 1, width) -> (B, 1, width) that goes on from ``state`` and keeps what it leaves."""

    def step(x: Tensor) -> Tensor:
        nonlocal state
        context = Context(state=state)
        y = mixer(x, context)
        state = context.next_state
        return y

    return step


class KeyValueCache:
    """Keys and values (B, H, T + room, d) of every token so far, written in place, as inference servers do."""

    def __init__(self, attention: SoftmaxAttention, past: Tensor, *, room: int) -> None:
        self.attention, self.length = attention, past.shape[1]
        _, keys, values = self._project(past)
        if attention.positions != "none":
            raise UsageError(
                f"the key-value cache takes softmax attention with positions 'none', not '{attention.positions}'"
            )
        self.keys, self.values = (F.pad(t, (0, 0, 0, room)) for t in (keys, values))

    def rewound(self) -> Step:
        """A step after the past that the cache was made of."""
        length = self.length

        def step(x: Tensor) -> Tensor:
            nonlocal length
            query, key, value = self._project(x)
            self.keys[:, :, length : length + 1], self.values[:, :, length : length + 1] = key, value
            length += 1
            mixed = F.scaled_dot_product_attention(query, self.keys[:, :, :length], self.values[:, :, :length])
            return self.attention.merge(mixed.transpose(1, 2).flatten(2))

        return step

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        batch, steps, width = x.shape
        heads = self.attention.heads
        projected = self.attention.project(x).view(batch, steps, 3, heads, width // heads)
        return tuple(projected.permute(2, 0, 3, 1, 4).contiguous())


def tensors(state: Any) -> Iterator[Tensor]:
    """Every tensor in a state of dictionaries, sequences, dataclasses and traces."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors(value)
    elif isinstance(state, tuple | list):
        for value in state:
            yield from tensors(value)
    elif isinstance(state, Trace):
        yield state.field
    elif is_dataclass(state):
        for one in fields(state):
            yield from tensors(getattr(state, one.name))
