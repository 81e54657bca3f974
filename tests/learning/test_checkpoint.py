"""A checkpoint is whole and right, or it is refused in one line."""

import errno
import json
import os

import pytest
import safetensors
import torch
from tiny_training import TinyModel, assert_same_tensors, batch_at
from torch import nn

from learning import OPTIMIZERS
from learning.checkpoint import (
    load_checkpoint,
    load_weights,
    model_tensors,
    optimizer_tensors,
    restore_model,
    restore_optimizer,
    save_checkpoint,
)
from neurons.errors import RunError


def clones(tensors):
    return {name: tensor.clone() for name, tensor in tensors.items()}


def trained(name="adamw"):
    model = TinyModel()
    optimizer = OPTIMIZERS.build(name).build(model, lr=0.1, weight_decay=0.01)
    for i in range(3):
        optimizer.zero_grad()
        model.loss(batch_at(i)).objective.backward()
        optimizer.step()
    return model, optimizer


@pytest.fixture
def saved(tmp_path):
    model, optimizer = trained()
    path = tmp_path / "last.safetensors"
    parts = {"model": model_tensors(model), "optimizer": optimizer_tensors(optimizer, model)}
    save_checkpoint(path, parts, {"step": 3, "value": 0.1 + 0.2})
    return path, model, optimizer


def test_round_trip_is_bitwise(saved):
    path, model, _ = saved
    checkpoint = load_checkpoint(path)
    assert checkpoint.state == {"schema": 1, "step": 3, "value": 0.1 + 0.2}
    assert_same_tensors(checkpoint.part("model"), clones(model_tensors(model)))
    other = TinyModel(seed=1)
    assert load_weights(path, other)["step"] == 3
    assert_same_tensors(model_tensors(other), model_tensors(model))
    assert other.stages[0].norm.num_batches_tracked == 3


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_a_restored_optimizer_continues_bitwise(tmp_path, name):
    model, optimizer = trained(name)
    parts = {"model": model_tensors(model), "optimizer": optimizer_tensors(optimizer, model)}
    save_checkpoint(tmp_path / "c", parts, {})
    checkpoint, other = load_checkpoint(tmp_path / "c"), TinyModel(seed=1)
    again = OPTIMIZERS.build(name).build(other, lr=0.1, weight_decay=0.01)
    restore_model(other, checkpoint.part("model"), tmp_path / "c")
    restore_optimizer(again, other, checkpoint.part("optimizer"), tmp_path / "c")
    for net, stepper in ((model, optimizer), (other, again)):
        torch.manual_seed(0)
        stepper.zero_grad()
        net.loss(batch_at(9)).objective.backward()
        stepper.step()
    assert_same_tensors(model_tensors(model), model_tensors(other))


def test_another_library_reads_the_file(saved):
    """safetensors' own reader finds the tensors and the JSON state."""
    path, model, _ = saved
    with safetensors.safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["state"])["step"] == 3
        weight = file.get_tensor("model/stages.0.linear.weight")
        assert set(file.keys()) > {"optimizer/stages.0.linear.weight/exp_avg"}
    assert weight.equal(model.stages[0].linear.weight)


def test_tied_parameters_are_saved_once_and_stay_tied(tmp_path):
    def tied():
        model = nn.ModuleDict({"table": nn.Embedding(5, 4), "head": nn.Linear(4, 5)})
        model["head"].weight = model["table"].weight
        return model

    one, two = tied(), tied()
    save_checkpoint(tmp_path / "c", {"model": model_tensors(one)}, {})
    assert sorted(load_checkpoint(tmp_path / "c").part("model")) == ["head.bias", "table.weight"]
    load_weights(tmp_path / "c", two)
    assert two["head"].weight is two["table"].weight
    assert two["head"].weight.equal(one["table"].weight)


def test_views_and_odd_dtypes_survive(tmp_path):
    base = torch.arange(12.0)
    tensors = {
        "whole": base,
        "part": base[3:6],
        "strided": base.view(3, 4).T,
        "complex": torch.tensor([1 + 2j]),
        "flags": torch.tensor([True, False]),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }
    save_checkpoint(tmp_path / "c", {"rule": tensors}, {})
    for name, tensor in load_checkpoint(tmp_path / "c").part("rule").items():
        assert tensor.dtype == tensors[name].dtype
        assert tensor.equal(tensors[name]), name


def test_truncated_anywhere_is_refused(saved):
    path = saved[0]
    data = path.read_bytes()
    for length in {0, 1, 7, 8, 9, 100, *range(0, len(data), 97), len(data) - 1}:
        path.write_bytes(data[:length])
        with pytest.raises(RunError, match="corrupt or truncated"):
            load_checkpoint(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(RunError, match="corrupt or truncated"):
        load_checkpoint(path)


@pytest.mark.parametrize(("mask", "stride"), [(0x01, 5), (0x80, 37)])
def test_a_flipped_bit_anywhere_is_refused(tmp_path, mask, stride):
    """Every byte of the length field, every ``stride``-th of the header, a sample of the body."""
    path = tmp_path / "c"
    save_checkpoint(path, {"model": model_tensors(TinyModel())}, {"step": 3, "value": 0.5})
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for position in [*range(8), *range(8, header, stride), *range(header, len(data), 101), len(data) - 1]:
        damaged = bytearray(data)
        damaged[position] ^= mask
        path.write_bytes(damaged)
        with pytest.raises(RunError) as raised:
            load_checkpoint(path)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new"), [(b'"F32"', b'"I32"'), (b"linear.weight", b"linear.weighs"), (b"[8,4]", b"[4,8]"), (b"0.5", b"0.6")]
)
def test_a_header_that_is_valid_but_false_is_refused(tmp_path, old, new):
    """Another dtype, name, shape or state of the same length: only the digest can tell."""
    path = tmp_path / "c"
    save_checkpoint(path, {"model": model_tensors(TinyModel())}, {"step": 3, "value": 0.5})
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(RunError, match="corrupt"):
        load_checkpoint(path)


def test_foreign_and_missing_files_are_refused(tmp_path):
    import safetensors.torch

    path = tmp_path / "c"
    with pytest.raises(RunError, match="No such file"):
        load_checkpoint(path)
    for foreign in (b"not a checkpoint", safetensors.torch.save({"x": torch.ones(1)}), os.urandom(5000)):
        path.write_bytes(foreign)
        with pytest.raises(RunError, match="corrupt or truncated"):
            load_checkpoint(path)


def test_a_model_that_does_not_fit_is_named_and_left_alone(saved):
    path = saved[0]
    wide = TinyModel(seed=2)
    wide.stages[1].linear = nn.Linear(8, 5)
    before = clones(model_tensors(wide))
    with pytest.raises(RunError, match=r"'stages.1.linear.weight' is \(3, 8\) float32 there, \(5, 8\) float32 here"):
        load_weights(path, wide)
    assert_same_tensors(model_tensors(wide), before)
    deep = TinyModel()
    deep.extra = nn.Linear(1, 1)
    with pytest.raises(RunError, match=r"'extra.weight' is missing there"):
        load_weights(path, deep)
    shallow = TinyModel()
    shallow.stages[0].norm = nn.Identity()
    with pytest.raises(RunError, match=r"'stages.0.norm.\w+' is .* there, missing here"):
        load_weights(path, shallow)


def test_optimizer_state_of_an_untrained_parameter_is_refused(saved):
    path, model, _ = saved
    model.stages[0].linear.weight.requires_grad_(False)
    optimizer = OPTIMIZERS.build("adamw").build(model, lr=0.1, weight_decay=0.0)
    with pytest.raises(RunError, match=r"'stages.0.linear.weight', which is not trained here"):
        restore_optimizer(optimizer, model, load_checkpoint(path).part("optimizer"), path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_leaves_the_old_checkpoint(saved, monkeypatch, call):
    path, model, _ = saved
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(RunError, match="disk full") as raised:
        save_checkpoint(path, {"model": model_tensors(model)}, {"step": 4})
    assert raised.value.exit_code == 1
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_device_that_is_really_full(saved):
    path, model, _ = saved
    before = path.read_bytes()
    os.symlink("/dev/full", path.with_name(path.name + ".tmp"))
    with pytest.raises(RunError, match="disk full"):
        save_checkpoint(path, {"model": model_tensors(model)}, {"step": 4})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_the_rename_comes_after_the_data_is_on_disk(saved, monkeypatch):
    path, model, _ = saved
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *pair: (calls.append("replace"), replace(*pair)))
    save_checkpoint(path, {"model": model_tensors(model)}, {})
    assert calls == ["fsync", "replace", "fsync"]


def test_no_pickle_is_loaded(tmp_path):
    """A file written by torch.save is refused, not executed."""
    torch.save({"model": TinyModel().state_dict()}, tmp_path / "c")
    with pytest.raises(RunError, match="corrupt"):
        load_checkpoint(tmp_path / "c")
