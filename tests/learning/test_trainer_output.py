"""What a fit shows while it runs, and where it runs: progress, devices, precision."""

import sys

import pytest
import torch
from tiny_training import fit

from learning.precision import resolve_device
from neurons.errors import UsageError


def test_progress_is_one_plain_line_per_evaluation_outside_a_terminal(capsys):
    fit(progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"step {step}/60" for step in (20, 40, 60)]
    assert all("loss" in line and "lr" in line and "held out" in line for line in lines)
    fit(progress=False)
    assert capsys.readouterr() == ("", "")


def test_progress_is_a_bar_in_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fit(progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.split("\r")[-1]
    assert "60/60" in last
    assert "held out" in last
    assert "\n" not in captured.err.strip()


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:1", "mps"):
        with pytest.raises(UsageError, match=rf"'{name}' is not available.*Try: --device auto|'mps' is not available"):
            resolve_device(name)
    for name in ("cpuu", "cuda:x", "cuda:-1", "cpu:0", ""):
        with pytest.raises(UsageError, match="unknown device"):
            resolve_device(name)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match="torch sees 2 CUDA devices"):
        resolve_device("cuda:2")


def test_unknown_precision_is_refused():
    with pytest.raises(UsageError, match="unknown precision 'fp8'"):
        fit(precision="fp8")
