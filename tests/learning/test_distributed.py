"""Two processes learn what one learns from the whole batch; only rank 0 writes; decisions are shared."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_training import CASES, CLAMP, Plain, batch_at, fit, half, interrupted, one, pc
from safetensors.torch import load_file
from tiny_training import assert_same_tensors

from learning import distributed
from learning.precision import resolve_device
from neurons.errors import UsageError
from neurons.specs import Batch, Loss

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of two processes learned, by case."""
    out = tmp_path_factory.mktemp("two")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(HERE / "distributed_training.py"), str(out)]
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    started = []
    for place in range(2):
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(place)}
        env = os.environ | shared | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen([*command, str(place)], env=env, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=300)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], errors
    found = {file.stem: load_file(file) for file in out.glob("*.safetensors")}
    return out, {name: (found[f"{name}-0"], found[f"{name}-1"]) for name in {stem[:-2] for stem in found}}


def close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor.detach(), rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_learns_from_the_whole_batch(both, case):
    first, second = both[1][case]
    assert_same_tensors(first, second)
    close(first, one(case))


def test_the_rate_is_what_the_largest_curvature_of_all_processes_allows(both):
    """The oracle has no clamp: it settles the whole batch at the rate of the half with the larger curvature."""
    first, second = both[1]["clamp"]
    assert_same_tensors(first, second)
    curvatures = [pc(clamp=CLAMP).step(Plain(), half(batch_at(0), place)).scalars["lambda_max"] for place in range(2)]
    assert abs(curvatures[1] - curvatures[0]) > 1e-3
    assert CLAMP / max(curvatures) < 0.9  # it binds
    wanted = fit(Plain(), pc(inference_rate=CLAMP / max(curvatures)))[1]
    close({name: first[name] for name in wanted}, wanted)
    assert float(first["lambda_max"]) == max(curvatures)


def test_settling_ends_for_all_at_once(both):
    first, second = both[1]["tolerance"]
    assert_same_tensors(first, second)
    assert 1 < int(first["steps"]) < 60


@pytest.mark.parametrize("case", ["statistics", "selected"])
def test_running_statistics_and_selected_weights_are_those_of_rank_0(both, case):
    first, second = both[1][case]
    assert any("running" in name for name in first)
    assert_same_tensors(first, second)


def test_only_rank_0_writes_and_a_resumed_run_is_the_uninterrupted_one(both, tmp_path):
    out, found = both
    first, second = found["resumed"]
    assert_same_tensors(first, second)
    close(first, interrupted(tmp_path / "alone"))
    assert (out / "run-0" / "metrics.jsonl").exists()
    assert not (out / "run-1").exists()


def test_processes_that_would_make_different_numbers_of_steps_say_so(both):
    for place in range(2):
        told = (both[0] / f"error-{place}").read_text()
        assert told.startswith("UsageError: the processes disagree about trainer.steps: from 5 to 6.")


def test_slices_are_the_batch(monkeypatch):
    batch = Batch(torch.arange(21.0).view(7, 3, 1), torch.arange(7), torch.ones(7, 3, dtype=torch.bool))
    assert distributed.share(batch) == (batch, 1.0)
    monkeypatch.setattr(distributed, "size", lambda: 3)
    parts = []
    for place in range(3):
        monkeypatch.setattr(distributed, "rank", lambda place=place: place)
        part, weight = distributed.share(batch)
        assert weight == 1.0
        parts.append(part)
        few, weight = distributed.share(Batch(batch.x[:2], batch.y[:2]))
        assert len(few) == 2
        assert weight == (place == 0)
    assert [len(part) for part in parts] == [2, 2, 3]
    for name in ("x", "y", "mask"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))


def test_one_process_is_left_alone(monkeypatch):
    assert (distributed.rank(), distributed.size(), distributed.launched()) == (0, 1, False)
    distributed.start(torch.device("cpu"))
    assert not distributed.started()
    loss = Loss(torch.tensor(1.0), torch.tensor(1.0), 2)
    assert distributed.reduce_step([], loss, 1.0) is loss
    assert distributed.spread_numbers({"a": 1.0}) == {"a": 1.0}
    assert distributed.own_gpu(1) is None
    monkeypatch.setenv("WORLD_SIZE", "8")  # a cluster's own variable, without the rest
    assert not distributed.launched()


def test_what_cannot_be_started_says_why_in_one_line(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert distributed.rank() == 1
    with pytest.raises(UsageError, match=r"^process 1 wants a GPU of its own, and torch sees 1\. Try: [^\n]+$"):
        distributed.own_gpu(1)
    assert distributed.own_gpu(2) == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda:1")
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(UsageError, match=r"^several processes train on cpu or cuda, not on mps\. Try: [^\n]+$"):
        distributed.start(torch.device("mps"))
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(UsageError, match=r"^RANK is a number where torchrun starts the processes, not 'one'$"):
        distributed.rank()
