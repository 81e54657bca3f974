"""``torchrun -m cli train``: two processes, one run directory, the result of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from baselines.config import resolve
from baselines.experiment import run

TRAIN = {"task": "digits", "model": "mlp", "rule": "backprop", "steps": 4}
SETS = ["model.dropout=0", "trainer.batch_size=101", "trainer.select=last"]


def test_two_processes_leave_one_run_that_is_the_run_of_one(tmp_path: Path) -> None:
    """A batch of 101 does not divide among two; the second process must not take a folder of its own."""
    flags = [argument for name, value in TRAIN.items() for argument in (f"--{name}", str(value))]
    sets = [argument for one in SETS for argument in ("--set", one)]
    here = tmp_path / "here"
    here.mkdir()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = [*launch, "cli", "train", *flags, *sets]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=env, cwd=here, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("on test") == 1, done.stdout  # the first process alone tells
    assert [path.parent.name for path in here.rglob("config.json")] == ["mlp-backprop-s0"]
    two = json.loads((here / "runs/digits/mlp-backprop-s0/result.json").read_text())
    one = run(resolve(**TRAIN, sets=SETS).config, out=tmp_path / "one")  # type: ignore[arg-type]
    assert two["primary"] == one["primary"]
    losses = [[row["loss"] for row in result["curve"]] for result in (one, two)]
    assert all(abs(a - b) < 1e-5 for a, b in zip(*losses, strict=True))
    assert (one["world_size"], two["world_size"]) == (1, 2)
    assert two["train"]["steps"] == one["train"]["steps"] == 4
