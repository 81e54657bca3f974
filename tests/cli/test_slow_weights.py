"""Consolidation from the command line: a run ends with slow weights in its checkpoint, and ``eval`` reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learning.checkpoint import load_checkpoint
from learning.run import RunDirectory

MODEL = ("model.width=16", "model.layers=1", "model.heads=2", "model.fast_rule=delta", "model.fast_lag=1")
TASK = ("task.pairs=4", "task.vocabulary=32", "task.train=64", "task.held_out=16", "task.test=16")
COMMAND = ("train", "--task", "mqar", "--model", "neuronsv2", "--rule", "backprop", "--threads", "1", "--steps", "6")


@pytest.mark.parametrize("consolidate", ["true", "false"])
def test_a_run_ends_with_slow_weights_where_it_was_asked_to(neurons, consolidate):
    sets = [part for choice in (*MODEL, *TASK, f"model.consolidate={consolidate}") for part in ("--set", choice)]
    result = neurons(*COMMAND, *sets, "--out", "run")
    assert result.exit_code == 0, result.stderr
    model = load_checkpoint(RunDirectory(Path("run")).last).part("model")
    states = {name.rsplit(".", 1)[-1]: tensor for name, tensor in model.items() if ".memory." in name}
    assert bool(states) is (consolidate == "true")
    for name in ("medium", "slow") if states else ():
        assert states[name].dtype == torch.float64
        assert states[name].any()
    assert neurons("eval", "run").exit_code == 0
