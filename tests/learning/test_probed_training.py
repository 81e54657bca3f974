"""A run that is probed: a row of instruments at every evaluation, and the same training as without."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from baselines.models.mlp import MLP
from learning.rules.predictive_coding import PredictiveCoding
from learning.run import RunDirectory
from learning.trainer import Trainer
from neurons.specs import Batch, InputSpec, OutputSpec


def batch(index: int) -> Batch:
    generator = torch.Generator().manual_seed(index)
    return Batch(torch.randn(8, 3, 4, generator=generator), torch.randint(0, 3, (8,), generator=generator))


def train(path: Path, *, probe: bool, steps: int = 6, resume: bool = False) -> tuple[list[dict], list[torch.Tensor]]:
    torch.manual_seed(0)
    model = MLP(input=InputSpec("features", 3, 4), output=OutputSpec("label", 3), width=8, layers=3)
    rule = PredictiveCoding(steps=4, clamp=1.0)
    run = RunDirectory.create(path, {"probe": True} if probe else {}, resume=resume)
    trainer = Trainer(steps=steps, eval_every=2, optimizer="adam", select="last", schedule="constant", warmup=0.0)
    trainer.fit(model, rule, batch, lambda _: {"primary": 0.5, "loss": 1.0}, run=run, resume=resume)
    return run.rows(), [p.detach() for p in model.parameters()]


def test_every_evaluation_has_its_instruments(tmp_path):
    rows, _ = train(tmp_path / "a", probe=True)
    probes = [row for row in rows if row["split"] == "probe"]
    assert [row["step"] for row in probes] == [2, 4, 6]
    for row in probes:
        assert -1 <= row["cosine"] <= 1
        assert {f"cosine_{stage}" for stage in (1, 2, 3, 4)} <= row.keys()
        assert len(row["energies"]) == 5  # before each of four settling steps, and after the last
        assert all(len(energies) == 4 for energies in row["energies"])  # three hidden stages, then the loss
        assert len(row["stationarity"]) == 4
        assert row["lambda_max"] > 0
        assert row["passes"] > 4
        assert row["step_seconds"] > 0
        assert row["backprop_seconds"] > 0


def test_training_goes_on_as_if_nobody_had_looked(tmp_path):
    plain, weights = train(tmp_path / "a", probe=False)
    probed, watched = train(tmp_path / "b", probe=True)
    assert all(torch.equal(a, b) for a, b in zip(weights, watched, strict=True))
    losses = [[row["loss"] for row in rows if row["split"] == "train"] for rows in (plain, probed)]
    assert losses[0] == losses[1]
    assert not any(row["split"] == "probe" for row in plain)


def test_a_resumed_run_keeps_one_row_for_each_evaluation(tmp_path):
    whole, _ = train(tmp_path / "a", probe=True)
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "a" / "metrics.jsonl").write_text("\n".join([*lines, json.dumps(whole[-1] | {"step": 9})]) + "\n")
    again, _ = train(tmp_path / "a", probe=True, resume=True)
    assert [row["step"] for row in again if row["split"] == "probe"] == [2, 4, 6]
