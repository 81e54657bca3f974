"""list and show."""

from __future__ import annotations

import json

import pytest

from neurons import MODELS
from neurons.registry import REGISTRIES


def document(result) -> dict:
    """The one JSON document on stdout."""
    assert result.exit_code == 0, result.stderr
    value, end = json.JSONDecoder().raw_decode(result.stdout)
    assert result.stdout[end:].strip() == ""
    assert value["schema"] == 1
    return value


def test_kinds_come_with_their_counts(neurons):
    found = {one["name"]: one["count"] for one in document(neurons("list", "--json"))["kinds"]}
    assert found["models"] == len(MODELS.entries())
    assert set(found) == {*REGISTRIES, "recipes"}
    assert "models" in neurons("list").stdout


def test_every_part_is_listed_with_its_summary_in_singular_and_plural(neurons):
    for plural, registry in REGISTRIES.items():
        assert document(neurons("list", plural, "--json")) == document(neurons("list", registry.kind, "--json"))
        parts = document(neurons("list", plural, "--json"))["parts"]
        assert [part["name"] for part in parts] == list(registry.entries())
        lines = neurons("list", plural).stdout.splitlines()
        assert [line.split()[0] for line in lines] == list(registry.entries())
        for part, line in zip(parts, lines, strict=True):
            assert line.endswith(part["summary"])


def test_lines_are_fitted_to_the_terminal(neurons, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert max(len(line) for line in neurons("list", "models").stdout.splitlines()) <= 40


def test_show_tells_options_with_type_and_default(neurons):
    text = neurons("show", "models", "mlp").stdout
    entry = MODELS.entry("mlp")
    for option in entry.options:
        row = next(line for line in text.splitlines() if line.split()[:1] == [option.name])
        assert row.split()[1:] == [*option.annotation.split(), repr(option.default)]
    assert f"baselines/models/mlp.py:{entry.line}" in text
    found = document(neurons("show", "model", "mlp", "--json"))
    assert {one["name"]: one["default"] for one in found["options"]} == entry.defaults()


def test_show_tells_presets_and_ablations_as_they_are_named_elsewhere(neurons):
    entry = MODELS.entry("neuronsv2")
    found = document(neurons("show", "model", "neuronsv2", "--json"))
    assert (found["presets"], found["ablations"]) == (entry.presets, entry.ablations)
    lines = neurons("show", "model", "neuronsv2").stdout.splitlines()
    assert "neuronsv2 - delay line    delay 0" in lines
    assert any(line.startswith("neuronsv2:tiny      width 32, layers 1") for line in lines)


@pytest.mark.parametrize("name", list(MODELS.entries()))
def test_the_circuit_adds_up_to_the_models_parameters(neurons, name):
    circuit = document(neurons("show", "model", name, "--circuit", "--json"))["circuit"]
    assert sum(stage["parameters"] for stage in circuit["stages"]) == circuit["parameters"]["total"]
    assert all(stage["shape"][0] == circuit["input_shape"][0] for stage in circuit["stages"])
    text = neurons("show", "model", name, "--circuit").stdout
    assert f"attention {circuit['parameters']['attention']:,}" in text
    assert all(stage["stage"] in text for stage in circuit["stages"])


def test_a_shared_parameter_is_counted_where_it_is_met_first():
    import torch
    from torch import nn

    from cli.circuit import walk
    from neurons.model import Model
    from neurons.specs import InputSpec, OutputSpec

    class Stage(nn.Module):
        def __init__(self, weight: nn.Parameter) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, x, context):
            return x @ self.weight

    class Tied(Model):
        def __init__(self) -> None:
            super().__init__(InputSpec("features", 16, 32), OutputSpec("label", 3))
            weight = nn.Parameter(torch.eye(32))
            self.stages = nn.ModuleList([Stage(weight), Stage(weight)])

    assert [stage["parameters"] for stage in walk(Tied())["stages"]] == [1024, 0]


def test_only_models_have_a_circuit(neurons):
    result = neurons("show", "rule", "backprop", "--circuit")
    assert result.exit_code == 2
    assert "--circuit shows models" in result.stderr


def test_recipes_are_listed(neurons):
    from baselines.recipe import recipes

    assert [one["name"] for one in document(neurons("list", "recipes", "--json"))["parts"]] == list(recipes())
