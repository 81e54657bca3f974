"""A warm-up runs every shape and leaves everything as it was."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from neurons import MODELS
from neurons.errors import UsageError
from neurons.model import Model
from neurons.resonance.warmup import warm_up
from neurons.specs import Batch, InputSpec, OutputSpec


def built(kind: Literal["tokens", "features"] = "tokens", pair: bool = False) -> Model:
    torch.manual_seed(0)
    model: Model = MODELS.build(
        "resonance_net", input=InputSpec(kind, 16, 7, pair=pair), output=OutputSpec("label", 2), width=16, modes=8
    )
    return model


@pytest.mark.parametrize("kind", ["tokens", "features"])
def test_calls_every_shape_without_gradient_or_training(kind: Literal["tokens", "features"]) -> None:
    model = built(kind)
    seen: list[tuple[tuple[int, ...], bool, bool]] = []

    def run(batch: Batch) -> torch.Tensor:
        seen.append((tuple(batch.x.shape[:2]), torch.is_grad_enabled(), model.training))
        return model(batch)

    found = warm_up(model, [(1, 16), (2, 64)], calls=2, run=run)
    assert seen == [((1, 16), False, False)] * 2 + [((2, 64), False, False)] * 2
    assert [(one.batch, one.length) for one in found] == [(1, 16), (2, 64)]
    assert all(one.first > 0 and one.last > 0 for one in found)


def test_warms_pairs() -> None:
    assert len(warm_up(built(pair=True), [(2, 16)])) == 1


def test_leaves_mode_weights_and_random_state() -> None:
    model = built().train()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    warm_up(model, [(2, 16)])
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_dear_first_call_is_over_afterwards() -> None:
    """What is dear at first is a compilation; here it is counted, not timed."""
    torch._dynamo.reset()
    model, compiled = built(), []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        compiled.append(graph)
        return graph.forward

    run = torch.compile(model, fullgraph=True, backend=backend, dynamic=False)
    warm_up(model, [(1, 8), (1, 16)], run=run)
    assert len(compiled) == 2
    with torch.no_grad():
        run.eval()(Batch(torch.ones(1, 16, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)))
    assert len(compiled) == 2


def test_refuses_what_warms_nothing() -> None:
    for shapes, calls in (([], 3), ([(1, 16)], 1), ([(0, 16)], 3)):
        with pytest.raises(UsageError, match="warm-up"):
            warm_up(built(), shapes, calls=calls)
