"""Passes: what each variant reports is what its stages counted, and what the formulas say."""

from __future__ import annotations

import pytest
import torch
from pc_networks import CountingStage, squared
from torch import nn

from learning.rules.pc.variants import VARIANTS
from learning.rules.predictive_coding import PredictiveCoding


def tallies(rule: PredictiveCoding, depth: int) -> tuple[list[tuple[int, ...]], int]:
    torch.manual_seed(0)
    stages = nn.Sequential(*[CountingStage() for _ in range(depth)])
    report = rule.step(stages, (torch.randn(3, 4), torch.randn(3, 4)), loss=squared, update=lambda report: None)
    return [tuple(stage.tally.values()) for stage in stages], report.passes


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_passes_are_2_first_plus_2t_plus_1_each(steps):
    found, passes = tallies(PredictiveCoding(steps=steps, wavefront=False), depth=5)
    assert found[0] == (1, 0, 1)  # 2 F1: the input is clamped
    assert found[1:-1] == [(steps + 1, steps - 1, 1)] * 3  # (2T + 1) F each
    assert found[-1] == (steps + 1, steps, 1)  # the readout has an error from the first step on
    assert passes == sum(map(sum, found))


def test_skipping_halves_the_passes_of_a_deep_chain():
    full, _ = tallies(PredictiveCoding(steps=11, wavefront=False), depth=12)
    found, passes = tallies(PredictiveCoding(steps=11), depth=12)
    assert passes == sum(map(sum, found))
    # forward pass, input gradients, evaluations between steps, evaluations and weight gradients at the end
    assert passes == 12 + sum(range(1, 12)) + sum(range(1, 11)) + 11 + 12
    assert sum(map(sum, full)) == 2 + 10 * 23 + 24


def test_reverse_sweep_costs_what_backprop_costs():
    found, passes = tallies(PredictiveCoding(variant="zil"), depth=4)
    assert found == [(1, 0, 1), *[(1, 1, 1)] * 3]
    assert passes == sum(map(sum, found))


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_an_epc_step_sweeps_every_stage_but_the_first(steps):
    found, passes = tallies(PredictiveCoding(variant="epc", steps=steps), depth=5)
    assert found == [(1, 0, 1), *[(steps + 1, steps, 1)] * 4]
    assert passes == sum(map(sum, found))


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_an_ipc_step_adds_the_weight_gradients(steps):
    found, passes = tallies(PredictiveCoding(variant="ipc", steps=steps), depth=5)
    assert found[0] == (steps, 0, steps)
    assert found[1:-1] == [(steps + 1, steps - 1, steps)] * 3
    assert found[-1] == (steps + 1, steps, steps)
    assert passes == sum(map(sum, found))


def test_fixed_predictions_are_evaluated_twice_once_for_the_errors_once_for_the_weights():
    with pytest.warns(RuntimeWarning, match="not converged"):
        found, passes = tallies(PredictiveCoding(variant="fixedpred", steps=6), depth=5)
    assert found == [(1, 0, 1), (2, 3, 1), (2, 4, 1), (2, 5, 1), (2, 1, 1)]  # the top pulls the same at every step
    assert passes == sum(map(sum, found))
    found, passes = tallies(PredictiveCoding(variant="fixedpred", steps=4, inference_rate=1.0), depth=5)
    assert found == [(1, 0, 1), *[(1, 1, 1)] * 4]
    assert passes == sum(map(sum, found))


@pytest.mark.filterwarnings("ignore:fixedpred")
@pytest.mark.parametrize("wavefront", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_reported_passes_are_those_counted(variant, wavefront):
    found, passes = tallies(PredictiveCoding(variant=variant, steps=6, wavefront=wavefront), depth=7)
    assert passes == sum(map(sum, found))
    twin, _ = tallies(PredictiveCoding(steps=6, wavefront=wavefront), depth=7)
    factor = {"spc": 1, "pn": 1, "nn": 1, "pcalm": 1, "cn": 2}.get(variant)
    assert factor is None or passes == factor * sum(map(sum, twin))
