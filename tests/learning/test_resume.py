"""Interrupted and resumed equals uninterrupted, bit by bit, after Ctrl-C and after kill -9."""

import dataclasses
import json
import multiprocessing
import os
import random
import signal
import time

import pytest
from tiny_training import CONFIG, assert_same_tensors, batch_at, fit, foreground, rows_without_clock, train

from learning.checkpoint import load_checkpoint, model_tensors
from learning.run import RunDirectory
from learning.trainer import Interrupted

KILLS = int(os.environ.get("NEURONS_KILLS", "3"))
CLOCKS = ("seconds", "evaluation_seconds", "checkpoint_seconds")


def state_without_clock(checkpoint):
    tracker = {key: value for key, value in checkpoint.state["tracker"].items() if key not in CLOCKS}
    return {**checkpoint.state, "tracker": tracker}


def assert_same_run(one, two):
    """Weights, optimiser, rule, strategy, trackers, selection and metrics are equal to the last bit."""
    for name in ("last", "best"):
        a, b = load_checkpoint(getattr(one, name)), load_checkpoint(getattr(two, name))
        assert_same_tensors(a.tensors, b.tensors)
        if name == "last":
            assert {key.split("/")[0] for key in a.tensors} == {"model", "optimizer", "rule", "strategy"}
            assert state_without_clock(a) == state_without_clock(b)
        else:
            assert a.state == b.state
    assert rows_without_clock(one.path) == rows_without_clock(two.path)


@pytest.fixture(autouse=True)
def signals():
    with foreground():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run, its model and its report."""
    run = RunDirectory.create(tmp_path_factory.mktemp("whole") / "run", CONFIG)
    return run, *fit(run)


def test_the_reference_run_is_worth_comparing(whole):
    run, _, report = whole
    assert report.best_step == 40  # selection differs from the last weights
    assert load_checkpoint(run.last).part("model")["stages.0.norm.num_batches_tracked"] == 60
    rows = rows_without_clock(run.path)
    assert len({row["loss"] for row in rows}) > 25


@pytest.mark.parametrize("stops", [(1,), (4, 5), (10,), (17, 18, 43), (59,)])
def test_interrupted_and_resumed_is_uninterrupted(tmp_path, whole, stops):
    remaining = list(stops)

    def batches(i):
        if remaining and i + 1 == remaining[0]:
            signal.raise_signal(signal.SIGINT)
            remaining.pop(0)
        return batch_at(i)

    seconds = 0.0
    for _ in stops:
        run = RunDirectory.create(tmp_path / "run", CONFIG, resume=True)
        with pytest.raises(Interrupted):
            fit(run, batches=batches, resume=True)
        tracker = load_checkpoint(run.last).state["tracker"]
        assert tracker["seconds"] > seconds  # elapsed time accumulates
        seconds = tracker["seconds"]
    run = RunDirectory.create(tmp_path / "run", CONFIG, resume=True)
    model, report = fit(run, batches=batches, resume=True)
    assert_same_run(run, whole[0])
    assert_same_tensors(model_tensors(model), model_tensors(whole[1]))
    assert (report.samples, report.tokens) == (whole[2].samples, whole[2].tokens)
    assert (report.best_step, report.best_value) == (whole[2].best_step, whole[2].best_value)
    assert report.scalars == whole[2].scalars
    assert len(report.curve) == len(whole[2].curve)
    assert report.seconds > seconds


def test_resuming_a_complete_run_returns_it(whole):
    run, model, report = whole
    again, second = fit(RunDirectory.create(run.path, CONFIG, resume=True), resume=True)
    # the time of writing the last checkpoint cannot be in that checkpoint
    assert dataclasses.replace(second, checkpoint_seconds=report.checkpoint_seconds) == report
    assert_same_tensors(model_tensors(again), model_tensors(model))


def test_resuming_after_an_early_stop_does_not_go_on(tmp_path):
    def worse(model):
        return {"primary": 0.0}

    run = RunDirectory.create(tmp_path / "run", CONFIG)
    _, first = fit(run, evaluate=worse, trainer={"patience": 1})
    _, second = fit(run, evaluate=worse, trainer={"patience": 1}, resume=True)
    assert first.steps == second.steps == 40
    assert second.stopped_by == "patience"


def test_a_lost_best_file_is_made_again(tmp_path, whole):
    """The best weights may be newer than the checkpoint; replaying the steps between writes them again."""
    best = whole[2].best_step

    def batches(i):
        if i + 1 == best + 1:
            raise OSError("power cut")
        return batch_at(i)

    run = RunDirectory.create(tmp_path / "run", CONFIG)
    with pytest.raises(OSError, match="power cut"):
        fit(run, batches=batches, trainer={"checkpoint_every": 60})
    assert not run.last.exists()
    assert load_checkpoint(run.best).state["step"] == best
    run.best.unlink()
    fit(run, resume=True)
    assert_same_run(run, whole[0])


def look(path):
    """Read every file a run directory promises to be whole; returns the last step in metrics.jsonl."""
    for file in path.rglob("*.json"):
        json.loads(file.read_text())
    for file in path.rglob("*.safetensors"):
        load_checkpoint(file)
    if not (path / "config.json").exists():
        return 0
    rows = RunDirectory(path).rows()
    return rows[-1]["step"] if rows else 0


class Crash(BaseException):
    """Stands for sudden death: nothing in the program handles it."""


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 9, 12])
def test_death_at_any_stage_of_a_write_loses_nothing(tmp_path, whole, monkeypatch, call, number):
    """The run dies in its ``number``-th fsync or rename: of the configuration, of the best weights, of a checkpoint."""
    original, calls = getattr(os, call), []

    def die(*arguments):
        calls.append(call)
        if len(calls) == number:
            raise Crash
        return original(*arguments)

    monkeypatch.setattr(os, call, die)
    path = tmp_path / "run"
    with pytest.raises(Crash):
        fit(RunDirectory.create(path, CONFIG, resume=True), resume=True)
    look(path)
    run = RunDirectory.create(path, CONFIG, resume=True)
    fit(run, resume=True)
    assert_same_run(run, whole[0])
    assert not list(path.rglob("*.tmp"))


def test_kill_minus_nine_at_random_moments(tmp_path, whole):
    """Each of NEURONS_KILLS attempts lives for a few steps and some milliseconds more, then dies by SIGKILL."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "learning.trainer", "neurons.readouts"])
    chance, path, step, kills = random.Random(KILLS), tmp_path / "run", 0, 0
    while kills < KILLS:
        process = context.Process(target=train, args=(path, 0.01))
        process.start()
        goal = min(step + chance.randint(0, max(40 // KILLS, 1)), 59)
        while process.is_alive() and look(path) < goal:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        process.join()
        step = look(path)
        if process.exitcode == 0:  # it was done before the blow fell
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        assert not (path / "result.json").exists()
        if path.exists():
            assert RunDirectory(path).status == "interrupted"
    process = context.Process(target=train, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    run = RunDirectory(path)
    assert run.status == "complete"
    assert_same_run(run, whole[0])
    assert not list(path.rglob("*.tmp"))
    assert kills > KILLS // 2
