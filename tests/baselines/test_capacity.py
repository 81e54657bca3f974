"""The capacity experiment: against Cover's count, counted parameters and dichotomies known to be separable or not."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from baselines import capacity
from baselines.capacity import cover, crossing, neurons, separable
from neurons.dendrites.layer import DendriticLayer


def test_cover_is_one_half_at_two_patterns_per_weight_and_certain_up_to_one():
    assert [cover(2 * weights, weights) for weights in (1, 5, 60)] == pytest.approx([0.5] * 3)
    assert cover(7, 7) == 1.0
    assert cover(8, 7) == 1 - 2**-7


def test_the_linear_program_finds_as_many_dichotomies_as_cover_counts():
    """All 2^7 labellings of 7 points in the plane: 2 sum_{k<3} binom(6, k) = 44 of them are separable."""
    torch.manual_seed(0)
    labels = torch.tensor(list(itertools.product((0.0, 1.0), repeat=7))).t()
    found = separable(torch.randn(7, 2), labels)
    assert found.sum() == 2 * (1 + 6 + 15) == round(cover(7, 3) * 2**7)


def test_every_neuron_of_a_population_has_the_stated_parameters_and_none_in_common():
    counts = {neuron.name: neuron.parameters for neuron in neurons()}
    assert counts.pop("perceptron, linear program") == counts["perceptron"] == 60 + 1
    assert counts["mlp"] == 3 * (18 + 1) + 3 + 1
    assert counts["dendrites, sum"] == counts["dendrites, and"] == 10 * (4 + 2) + 1
    torch.manual_seed(0)
    for build in (capacity.Perceptron, capacity.Hidden, lambda units: capacity.Dendrites(units, "and")):
        model = build(4)
        model(torch.randn(9, model.inputs))[:, 2].sum().backward()
        for p in model.parameters():
            share = p.grad.abs().flatten().count_nonzero().item()
            assert share <= p.numel() // 4  # of four units, one is touched


def test_the_and_neuron_decides_as_its_layer_does():
    """log prod > log threshold is prod > threshold."""
    torch.manual_seed(1)
    neuron = capacity.Dendrites(5, "and")
    x = torch.randn(300, 18)
    with torch.no_grad():
        neuron.layer.threshold.fill_(7.0)
        logarithmic = neuron(x) > 0
        neuron.layer.threshold.fill_(-math.exp(-7.0))
        assert isinstance(neuron.layer, DendriticLayer)
        assert torch.equal(neuron.layer(x) > 0, logarithmic)
    assert 0 < logarithmic.float().mean() < 1


@pytest.mark.parametrize("which", [1, 2, 3, 4])
def test_training_learns_an_easy_load_and_not_an_impossible_one(monkeypatch, which):
    monkeypatch.setattr(capacity, "STEPS", 300)
    neuron = neurons()[which]
    found, fractions = capacity.capacity(neuron, seed=0, loads=[0.25, 20.0], dichotomies=4)
    assert fractions == {0.25: 1.0, 20.0: 0.0}
    assert found == 0.25 + 19.75 / 2


def test_crossing_is_where_the_fraction_falls_through_one_half():
    assert crossing({1.0: 1.0, 2.0: 0.75, 3.0: 0.25}) == 2.5
    assert crossing({1.0: 0.5, 2.0: 0.0}) == 1.0
    assert crossing({0.5: 0.0}) == 0.25
    assert crossing({0.5: 1.0, 1.0: 0.5}) == 1.0


def test_the_committed_result_is_of_these_neurons_and_this_protocol():
    """``python -m baselines.capacity`` takes minutes; here its exact row at one seed."""
    document = json.loads((Path(capacity.__file__).parents[1] / "results" / "dendrites-capacity.json").read_text())
    made = neurons()
    assert document["command"] == "python -m baselines.capacity"
    assert document["protocol"]["loads"] == capacity.LOADS
    assert document["protocol"]["steps"] == capacity.STEPS
    assert [(row["name"], row["parameters"], row["inputs"]) for row in document["neurons"]] == [
        (neuron.name, neuron.parameters, neuron.inputs) for neuron in made
    ]
    stored = document["neurons"][0]["learned"][0]
    loads = capacity.LOADS[: len(stored)]
    _, fractions = capacity.capacity(made[0], seed=0, loads=loads)
    assert {str(load): fraction for load, fraction in fractions.items()} == stored
