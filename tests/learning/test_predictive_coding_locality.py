"""What is local: no autograd edge crosses a stage, and nothing broken far away reaches an update."""

from __future__ import annotations

import copy

import pytest
import torch
from locality import leaves
from pc_networks import TinyModel, case, tiny_batch
from torch import Tensor, nn

from learning.chain import Chain
from learning.rules.backprop import Backprop
from learning.rules.pc.ipc import Interleaved
from learning.rules.pc.pcalm import Augmented
from learning.rules.pc.settling import Settling
from learning.rules.pc.state_optimizers import Adam, Momentum
from learning.rules.pc.variants import VARIANTS
from learning.rules.predictive_coding import PredictiveCoding
from learning.rules.settle import frozen
from neurons.specs import Batch

LOCAL = ["spc", "ipc", "fixedpred", "zil", "pn", "nn", "cn", "pcalm"]


class Recorder:
    """Wraps every stage, and the readout's loss, of a model: keeps input and output of each evaluation."""

    def __init__(self, model: TinyModel) -> None:
        self.seen: list[tuple[int, Tensor, Tensor]] = []
        for index, stage in enumerate(model.stages[:-1]):
            stage.register_forward_hook(lambda _, args, out, index=index: self.seen.append((index, args[0], out)))
        base, top = model.readout.loss, len(model.stages) - 1

        def loss(x: Tensor, batch: Batch):
            result = base(x, batch)
            self.seen.append((top, x, result.objective))
            return result

        self.loss = loss


def crossings(rule, model: TinyModel) -> tuple[int, set[int]]:
    """Evaluations from which the graph leaves the stage; stages whose own parameters were reached at least once."""
    recorder = Recorder(model)
    rule.step(model, tiny_batch(), loss=recorder.loss, update=lambda report: None)
    crossed, learning = 0, set()
    for index, x, output in recorder.seen:
        own = {id(p) for p in model.stages[index].parameters()}
        found = leaves(output)
        crossed += not found <= own | {id(x)}
        if found & own:
            learning.add(index)
    return crossed, learning


@pytest.mark.parametrize("variant", LOCAL)
def test_no_edge_crosses_a_stage_boundary(variant):
    rate = 1.0 if variant == "fixedpred" else 0.1
    rule = PredictiveCoding(variant=variant, steps=6, inference_rate=rate)
    crossed, learning = crossings(rule, TinyModel(depth=3))
    assert rule.local
    assert crossed == 0
    assert learning == {0, 1, 2, 3, 4}


@pytest.mark.filterwarnings("ignore:fixedpred")
def test_relaxing_fixed_predictions_crosses_no_boundary_either():
    assert crossings(PredictiveCoding(variant="fixedpred"), TinyModel(depth=3)) == (0, {0, 1, 2, 3, 4})


@pytest.mark.parametrize("options", [{"state_optimizer": "momentum"}, {"state_optimizer": "adam"}, {"clamp": 1.0}])
def test_no_option_of_settling_crosses_a_boundary(options):
    assert crossings(PredictiveCoding(**options), TinyModel(depth=3)) == (0, {0, 1, 2, 3, 4})


@pytest.mark.parametrize("rule", [Backprop(), PredictiveCoding(variant="epc")], ids=["backprop", "epc"])
def test_the_same_walk_finds_the_edges_of_rules_that_are_not_local(rule):
    crossed, learning = crossings(rule, TinyModel(depth=3))
    assert not rule.local
    assert crossed >= 3
    assert learning == {0, 1, 2, 3, 4}


def test_every_variant_says_how_local_it_is():
    rules = [PredictiveCoding(variant=name) for name in VARIANTS]
    assert {rule.variant for rule in rules if not rule.local} == {"epc"}
    assert {rule.variant for rule in rules if rule.local_in_time} == {"spc", "ipc", "pn", "nn", "pcalm"}
    assert set(LOCAL) == set(VARIANTS) - {"epc"}


ENGINES = {
    "spc": lambda chain: Settling(chain, rate=0.1),
    "spiking": lambda chain: Settling(chain, rate=0.1, spiking=True),
    "momentum": lambda chain: Settling(chain, rate=0.1, optimizer=Momentum(0.1, 0.9)),
    "adam": lambda chain: Settling(chain, rate=0.01, optimizer=Adam(0.01)),
    "pn": lambda chain: Settling(chain, rate=0.1, nudge=0.5),
    "nn": lambda chain: Settling(chain, rate=0.1, nudge=-0.5),
    "pcalm": lambda chain: Augmented(chain, penalty=1.0, multiplier_rate=1.0, rate=0.1),
    "ipc": lambda chain: Interleaved(chain, rate=0.1, wavefront=False),
}


def halfway(engine: str, stages: nn.Sequential, batch, loss) -> Settling:
    """Settled for eight steps, about to take the ninth."""
    settling = ENGINES[engine](Chain(stages, batch, loss))
    settling._forward()
    with frozen(settling.chain.parameters):
        settling._move()
        for _ in range(7):
            settling._predict_moved()
            settling._move()
    return settling


def poison(stage: nn.Module) -> None:
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.fill_(float("nan"))


@pytest.mark.parametrize("engine", ENGINES)
def test_distant_nan_leaves_state_moves_untouched(engine):
    stages, batch, loss = case("residual")  # six stages, states s_1 .. s_5
    moved = []
    for broken in (False, True):
        here = copy.deepcopy(stages)
        settling = halfway(engine, here, batch, loss)
        if broken:
            poison(here[4])  # f_5: predicts s_5 from s_4
        with frozen(settling.chain.parameters):
            settling._predict_moved()
            settling._move()
        moved.append(settling.states)
    for l in (0, 1, 2):
        assert torch.equal(moved[0][l], moved[1][l])
    assert moved[1][3].isnan().all()
    assert moved[1][4].isnan().all()


class Replaced(nn.Module):
    """Gives the recorded output of a stage; its parameters are NaN, and so is what it hands down."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage, self.output = copy.deepcopy(stage), torch.empty(0)
        poison(self.stage)

    def forward(self, x: Tensor) -> Tensor:
        broken = self.stage(x)
        return self.output + (broken - broken.detach()).nan_to_num(0.0)


@pytest.mark.filterwarnings("ignore:fixedpred")
@pytest.mark.parametrize("options", [{"variant": "zil"}, {"variant": "fixedpred"}], ids=["zil", "fixedpred"])
def test_nan_below_leaves_the_updates_above_untouched(options):
    stages, (x, y), loss = case("residual")
    rule = PredictiveCoding(**options)
    rule.step(stages, (x, y), loss=loss)
    wanted = [[p.grad.clone() for p in stage.parameters()] for stage in stages]
    here = copy.deepcopy(stages)
    here[2] = Replaced(stages[2])
    here[2].output = stages[:3](x).detach()
    rule.step(here, (x, y), loss=loss)
    for index in (3, 4, 5):
        assert all(torch.equal(p.grad, w) for p, w in zip(here[index].parameters(), wanted[index], strict=True))
    assert all(p.grad.isnan().any() for p in here[0].parameters())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("victim", [0, 2, 5])
def test_nan_elsewhere_leaves_weight_updates_untouched(victim, engine):
    stages, batch, loss = case("residual")
    found = []
    for broken in (False, True):
        here = copy.deepcopy(stages)
        settling = halfway(engine, here, batch, loss)
        if broken:
            poison(here[victim])
        found.append(settling._weight_gradients())
    spans = [list(range(2 * i, 2 * i + 2)) for i in range(6)]
    for index, span in enumerate(spans):
        if index not in (victim, 0):  # stage 1 was evaluated before
            assert all(torch.equal(found[0][i], found[1][i]) for i in span)
    if victim:
        assert all(found[1][i].isnan().any() for i in spans[victim][:1])
