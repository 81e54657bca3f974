"""What every declared ablation owes: it builds on every preset, and what it takes away is felt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_model_contract import build, sample

import baselines  # noqa: F401 - extends MODELS with the baselines
from neurons import MODELS
from neurons.errors import UsageError
from neurons.model import Attention, Model

ABLATIONS = [(name, component) for name in MODELS.names() for component in MODELS.entry(name).ablations]
every_ablation = pytest.mark.parametrize(("name", "component"), ABLATIONS, ids=["-".join(pair) for pair in ABLATIONS])


def bases(name: str) -> list[dict[str, Any]]:
    """Every set of options that the model itself proposes; presets of hundreds of millions of weights at 8 per head."""
    entry = MODELS.entry(name)
    proposed = [entry.defaults() | preset for preset in ({}, *entry.presets.values())]
    return [base | ({"width": 8 * base.get("heads", 8)} if base.get("width", 0) > 512 else {}) for base in proposed]


def built(name: str, options: dict[str, Any]) -> tuple[Model, str]:
    for output in ("label", "token"):
        try:
            return build(name, "tokens", output, **options), output
        except UsageError:
            continue
    raise AssertionError(f"{name} reads no tokens")


@every_ablation
def test_it_takes_something_away_from_the_defaults_or_a_preset(name: str, component: str) -> None:
    entry = MODELS.entry(name)
    changed = [base for base in bases(name) if base | entry.ablation(component, base) != base]
    assert changed, "its options are those of every preset: there is nothing to take away"
    for base in changed:
        taken = entry.ablation(component, base)
        assert entry.validate("model", taken) == taken
        full, output = built(name, base)
        ablated = build(name, "tokens", output, **base | taken)
        shapes = [{key: tensor.shape for key, tensor in model.state_dict().items()} for model in (full, ablated)]
        if shapes[0] == shapes[1]:  # the same weights, so that only the component can make the difference
            ablated.load_state_dict(full.state_dict())
            batch = sample("tokens", output)
            assert (full(batch) - ablated(batch)).abs().max() > 1e-5
        else:
            assert full.parameter_counts() != ablated.parameter_counts()


@every_ablation
def test_a_component_that_is_off_stays_off(name: str, component: str) -> None:
    entry = MODELS.entry(name)
    for base in bases(name):
        without = base | entry.ablation(component, base)
        assert without | entry.ablation(component, without) == without


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_without_rhythm_no_head_oscillates_however_many_there_are(heads: int) -> None:
    entry = MODELS.entry("neuronsv2")
    options = entry.defaults() | {"heads": heads, "content_heads": 0}
    for taken, still in (({}, False), (entry.ablation("rhythm", options), True)):
        model = build("neuronsv2", "tokens", "label", **options | taken)
        frequencies = [f for m in model.modules() if isinstance(m, Attention) for f in m.frequencies]  # type: ignore[union-attr]
        assert len(frequencies) == 2 * heads
        assert all(f == 0.0 for f in frequencies) is still


def test_without_the_gate_the_apex_adds_and_without_attention_there_is_none() -> None:
    entry = MODELS.entry("neuronsv2")
    options = entry.defaults()
    plain = build("neuronsv2", "tokens", "label", **options | entry.ablation("apical gate", options))
    assert {stage.dendrites.apical_mode for stage in plain.stages[1:-1]} == {"add"}
    deaf = build("neuronsv2", "tokens", "label", **options | entry.ablation("attention", options))
    assert {stage.dendrites.apical for stage in deaf.stages[1:-1]} == {0}
    assert not any(isinstance(module, Attention) for module in deaf.modules())
    assert torch.isfinite(deaf(sample("tokens", "label"))).all()
