"""What a causal model leaves between two chunks is small and its own: it does not keep whole sequences in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import baselines  # noqa: F401 - extends MODELS and ATTENTIONS with the baselines
from neurons import ATTENTIONS, MODELS
from neurons.dendrites.delay_line import DelayLine
from neurons.ops.coherence import Trace
from neurons.plasticity.fast_slow import FastSlowLinear
from neurons.specs import Batch, Context, InputSpec, OutputSpec
from neurons.spiking.soma import SpikingSoma

WIDTH, LENGTHS = 16, (70, 700)
# attentions whose state does not grow with what they have heard
CONSTANT = ("gamma", "gamma_resonator", "linear", "resonator")


def tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Trace):
        yield state.field
    elif state is not None:
        for value in state.values() if isinstance(state, dict) else state:
            yield from tensors(value)


def held(state: Any) -> int:
    """Bytes that live as long as ``state``: of every storage behind it, views included."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors(state)}
    return sum(storage.nbytes() for storage in storages.values())


def shown(state: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors(state))


def parts() -> dict[str, Any]:
    fast = {
        f"fast {rule} lag {lag}": lambda rule=rule, lag=lag: FastSlowLinear(
            in_features=WIDTH, out_features=WIDTH, rule=rule, lag=lag, keys=8
        )
        for rule in ("hebb", "delta", "rls")
        for lag in (0, 1)
    }
    attentions = {name: lambda name=name: ATTENTIONS.build(name, width=WIDTH, causal=True) for name in CONSTANT}
    return {
        **fast,
        **attentions,
        "delay": lambda: DelayLine(width=WIDTH, taps=4, causal=True),
        "soma": lambda: SpikingSoma(WIDTH),
    }


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", parts())
def test_a_part_leaves_a_state_of_fixed_size_of_its_own(name: str, masked: bool) -> None:
    part, sizes = parts()[name](), []
    for length in LENGTHS:
        mask = torch.arange(length) < torch.tensor([[length], [length - 20]]) if masked else None
        first = Context(mask=mask)
        part(torch.randn(2, length, WIDTH), first)
        second = Context(mask=mask, state=first.next_state)
        part(torch.randn(2, length, WIDTH), second)
        assert shown(second.next_state) == shown(first.next_state) > 0
        for context in (first, second):
            assert held(context.next_state) == shown(context.next_state)
            assert not any(tensor.requires_grad for tensor in tensors(context.next_state))
        sizes.append(held(first.next_state))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("neuronsv2", {}),
        ("neuronsv2", {"attention": None}),
        ("neuronsv2", {"fast_rule": "delta", "fast_lag": 1, "fast_keys": 8, "consolidate": True}),
        ("neuronsv2", {"fast_rule": "rls", "fast_lag": 1, "fast_keys": 8, "leak": 0.9}),
        ("spiking_neuronsv2", {}),
        ("resonance_net", {}),
    ],
)
def test_a_model_leaves_a_state_of_fixed_size_of_its_own(name: str, options: dict[str, Any]) -> None:
    sizes = []
    for length in LENGTHS:
        model = MODELS.build(
            name,
            input=InputSpec("tokens", length=length, size=30),
            output=OutputSpec("token", 30),
            width=WIDTH,
            layers=2,
            **options,
        )
        x = torch.randint(1, 30, (2, length))
        batch = Batch(x, x)
        context = model.context(batch)
        model(batch, context)
        assert held(context.next_state) == shown(context.next_state)
        sizes.append(held(context.next_state))
    assert sizes[0] == sizes[1] > 0
