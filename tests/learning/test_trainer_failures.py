"""What goes wrong loses nothing: non-finite loss, Ctrl-C, SIGTERM, full disk."""

import dataclasses
import errno
import math
import os
import signal
import threading

import pytest
import torch
from tiny_training import CONFIG, Reference, TinyModel, assert_same_tensors, batch_at, evaluate, fit, foreground

from learning.checkpoint import load_checkpoint, model_tensors
from learning.run import RunDirectory
from learning.trainer import Interrupted, Trainer
from neurons.errors import RunError, UsageError


@pytest.fixture(autouse=True)
def signals():
    with foreground():
        yield


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "run", CONFIG)


def poisoned_from(step):
    """Batches that hold a NaN from 1-based ``step`` on."""

    def batches(i):
        batch = batch_at(i)
        return dataclasses.replace(batch, x=batch.x * math.nan) if i + 1 >= step else batch

    return batches


def test_a_non_finite_loss_stops_before_it_reaches_the_weights(run):
    with pytest.raises(
        RunError, match=r"non-finite loss at step 28 \(loss nan.*Lower trainer.lr \(now 0.01\)"
    ) as raised:
        fit(run, batches=poisoned_from(28))
    assert raised.value.exit_code == 1
    assert "\n" not in str(raised.value)
    assert run.status == "failed"
    assert "step 28" in run.result["error"]
    assert run.rows()[-1]["step"] == 26
    checkpoint = load_checkpoint(run.last)
    assert checkpoint.state["step"] == 25
    assert all(tensor.isfinite().all() for tensor in checkpoint.tensors.values())
    with pytest.raises(RunError, match="step 28"):  # resuming replays the steps since and fails alike
        fit(run, batches=poisoned_from(28), resume=True)


def test_a_non_finite_gradient_under_a_finite_loss_is_caught():
    class Explodes(Reference):
        def step(self, model, batch, *, loss=None, update=None):
            report = super().step(model, batch, loss=loss, update=update)
            model.stages[0].linear.bias.grad[0] = math.inf
            return report

    model = TinyModel()
    before = model.stages[0].linear.weight.detach().clone()
    with pytest.raises(RunError, match=r"step 1 \(loss [\d.]+, gradient norm inf\)"):
        Trainer(steps=3).fit(model, Explodes(), batch_at, evaluate)
    assert model.stages[0].linear.weight.equal(before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_writes_a_checkpoint(run, number):
    def batches(i):
        if i == 16:
            signal.raise_signal(number)
        return batch_at(i)

    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match=r"interrupted at step 17; checkpoint written to .*--resume auto") as raised:
        fit(run, batches=batches)
    assert raised.value.exit_code == 130
    assert load_checkpoint(run.last).state["step"] == 17
    assert run.status == "interrupted"
    assert run.result is None
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_ignored_signal_stays_ignored(run):
    """``nohup`` and background jobs start with Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, report = fit(run, on_step=lambda step, report: signal.raise_signal(signal.SIGINT))
    assert report.steps == 60
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_signal_at_the_last_step_stops_too_and_the_resume_has_nothing_left_to_train(run):
    def batches(i):
        if i == 59:
            signal.raise_signal(signal.SIGINT)
        return batch_at(i)

    with pytest.raises(Interrupted, match="interrupted at step 60; checkpoint written"):
        fit(run, batches=batches)
    model, report = fit(run, resume=True, batches=batches)
    assert report.steps == 60
    assert_same_tensors(model_tensors(model), model_tensors(fit()[0]))


def test_a_second_ctrl_c_stops_at_once(run):
    def batches(i):
        if i == 16:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return batch_at(i)

    with pytest.raises(Interrupted, match="stopped during step 17; checkpoint written"):
        fit(run, batches=batches)
    assert load_checkpoint(run.last).state["step"] == 15


def test_without_a_run_directory_the_message_is_honest():
    def batches(i):
        signal.raise_signal(signal.SIGINT)
        return batch_at(i)

    with pytest.raises(Interrupted, match="interrupted at step 1; no checkpoint was written"):
        fit(batches=batches)


def test_it_trains_outside_the_main_thread():
    """Only the main thread may install signal handlers."""
    reports = []
    thread = threading.Thread(target=lambda: reports.append(fit(trainer={"steps": 5})[1]))
    thread.start()
    thread.join()
    assert reports[0].steps == 5


def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_later(run, monkeypatch):
    fsync, fill = os.fsync, []

    def full(handle):
        if fill:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"disk full while writing .*checkpoints"):
        fit(run, on_step=lambda step, report: fill.append(step) if step == 32 else None)
    assert load_checkpoint(run.last).state["step"] == 30
    assert not list(run.path.rglob("*.tmp"))
    fill.clear()
    model, report = fit(run, resume=True)
    assert report.steps == 60
    assert_same_tensors(model_tensors(model), model_tensors(fit()[0]))


def test_a_failing_evaluation_marks_the_run_failed(run):
    def broken(model):
        raise ValueError("labels are gone")

    with pytest.raises(ValueError, match="labels are gone"):
        fit(run, evaluate=broken)
    assert run.status == "failed"
    assert run.result["error"] == "labels are gone"


def test_a_run_that_holds_a_checkpoint_is_not_overwritten(run):
    fit(run)
    before = run.last.read_bytes()
    with pytest.raises(RunError, match=r"already holds a checkpoint. Add --resume auto"):
        fit(run)
    assert run.last.read_bytes() == before
    assert run.result is None


def test_resume_needs_a_run():
    with pytest.raises(UsageError, match="resume needs a run directory"):
        fit(resume=True)


def test_a_corrupt_checkpoint_is_refused_and_left(run):
    fit(run)
    data = bytearray(run.last.read_bytes())
    data[-1] ^= 1
    run.last.write_bytes(data)
    rows = run.rows()
    with pytest.raises(RunError, match=r"last.safetensors is corrupt"):
        fit(run, resume=True)
    assert run.last.read_bytes() == data
    assert run.rows() == rows


def test_a_checkpoint_of_another_configuration_is_refused(run, tmp_path):
    other = RunDirectory.create(tmp_path / "other", {**CONFIG, "seed": 9})
    fit(run)
    run.last.rename(other.last)
    with pytest.raises(RunError, match="belongs to another configuration"):
        fit(other, resume=True)


def test_scalars_that_are_not_finite_do_not_break_the_checkpoint(run):
    class Odd(Reference):
        def step(self, model, batch, *, loss=None, update=None):
            report = super().step(model, batch, loss=loss, update=update)
            return dataclasses.replace(report, scalars={"energy": math.nan, "step": 99.0})

    _, report = fit(run, rule=Odd())
    assert run.rows()[0]["energy"] is None
    assert run.rows()[0]["step"] == 2  # a rule cannot overwrite the trainer's own columns
    assert load_checkpoint(run.last).state["tracker"]["scalars"]["energy"] is None
    assert torch.isfinite(torch.tensor(report.best_value))
