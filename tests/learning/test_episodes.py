"""A batch is an episode: training consolidates, evaluation leaves no trace, and a checkpoint carries what is slow."""

import signal

import pytest
import torch
from tiny_training import assert_same_tensors, foreground

from learning.checkpoint import load_checkpoint, model_tensors
from learning.rules.backprop import Backprop
from learning.rules.predictive_coding import PredictiveCoding
from learning.run import RunDirectory
from learning.seeds import seed_everything, step_seed
from learning.trainer import Interrupted, Trainer
from neurons import MODELS
from neurons.specs import Batch, InputSpec, OutputSpec

CONFIG = {"trainer": {"steps": 12}, "task": {"name": "repeats"}}
SLOW = ("medium", "slow", "clock", "written")


def repeats(i, size=8):
    """Six random symbols three times over: what a sequence repeats is recalled, so it is worth keeping."""
    generator = torch.Generator().manual_seed(step_seed(7, i))
    x = torch.randint(1, 12, (size, 6), generator=generator).repeat(1, 3)
    return Batch(x, x.roll(-1, 1))


def build(consolidate=True):
    seed_everything(0)
    return MODELS.build(
        "neuronsv2",
        input=InputSpec("tokens", length=18, size=12),
        output=OutputSpec("token", 12),
        width=16,
        layers=2,
        heads=2,
        fast_rule="delta",
        fast_lag=1,
        consolidate=consolidate,
    )


def evaluate(model):
    loss = model.loss(repeats(10**6))
    return {"primary": -float(loss.reported) / loss.count}


def fit(run=None, *, batches=repeats, resume=False, rule=None, consolidate=True, **trainer):
    torch.set_num_threads(1)
    model = build(consolidate)
    made = Trainer(**{"steps": 12, "lr": 0.01, "eval_every": 4, "checkpoint_every": 4, "select": "last", **trainer})
    made.fit(model, rule or Backprop(), batches, evaluate, run=run, resume=resume)
    return model


def slow_state(tensors):
    return {name: tensor for name, tensor in tensors.items() if name.rsplit(".", 1)[-1] in SLOW}


@pytest.mark.parametrize("rule", [Backprop(), PredictiveCoding(variant="zil"), PredictiveCoding(steps=4)])
def test_training_consolidates_with_every_rule(tmp_path, rule):
    run = RunDirectory.create(tmp_path / "run", CONFIG)
    fit(run, rule=rule)
    states = slow_state(load_checkpoint(run.last).part("model"))
    assert len(states) == 2 * len(SLOW)
    for name, state in states.items():
        assert state.dtype == torch.float64, name
        assert state.any(), name
    # 18 tokens of a millisecond in each of 12 batches, however often the rule ran them
    assert states["stages.1.projection.memory.clock"].item() == pytest.approx(12 * 0.018, rel=1e-12)


def test_evaluation_leaves_no_trace():
    seldom, often = (model_tensors(fit(eval_every=n)) for n in (12, 1))
    assert_same_tensors(seldom, often)


def test_an_episode_that_is_not_over_outlives_an_evaluation():
    model = build().train()
    model.loss(repeats(0))
    evaluate(model.eval())
    before = {name: tensor.clone() for name, tensor in model_tensors(model).items()}
    evaluate(model)
    assert_same_tensors(model_tensors(model), before)
    model.end_episode()
    undisturbed = build().train()
    undisturbed.loss(repeats(0))
    undisturbed.end_episode()
    assert_same_tensors(model_tensors(model), model_tensors(undisturbed))
    assert slow_state(model_tensors(model))["stages.1.projection.memory.slow"].any()


def test_an_episode_that_is_not_over_is_in_the_state():
    first, second = build().train(), build().train()
    first.loss(repeats(0))
    second.load_state_dict(first.state_dict())
    for model in (first, second):
        model.end_episode()
    assert_same_tensors(model_tensors(first), model_tensors(second))
    assert slow_state(model_tensors(second))["stages.1.projection.memory.medium"].any()


@pytest.mark.parametrize("stop", [3, 6])
def test_interrupted_and_resumed_is_uninterrupted(tmp_path, stop):
    whole = RunDirectory.create(tmp_path / "whole", CONFIG)
    fit(whole)
    left = [stop]

    def batches(i):
        if left and i == left[0]:
            left.clear()
            signal.raise_signal(signal.SIGINT)
        return repeats(i)

    run = RunDirectory.create(tmp_path / "run", CONFIG)
    with foreground(), pytest.raises(Interrupted):
        fit(run, batches=batches)
    fit(RunDirectory.create(tmp_path / "run", CONFIG, resume=True), resume=True)
    assert_same_tensors(load_checkpoint(run.last).tensors, load_checkpoint(whole.last).tensors)


def test_consolidation_changes_what_is_learned():
    with_memory, without = fit(), fit(consolidate=False)
    assert evaluate(with_memory) != evaluate(without)
