"""Predictive coding beside other libraries: what is measured, what is left out and why."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from baselines.bench import peers, peers_learning
from baselines.bench.bars import BARS, judge
from baselines.bench.setting import Setting
from cli.bench_text import bench_text
from neurons.errors import UsageError

SETTING = Setting(rivals="predictive-coding", repeats=1)


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.setattr(peers_learning, "SIZES", (20, 8, 8, 10))
    monkeypatch.setattr(peers_learning, "BATCH", 16)

    def broken(*arguments: object) -> dict:
        raise AttributeError("no such step")

    monkeypatch.setattr(peers_learning, "PEERS", {"torch": broken, "nobody_has_this": broken})
    return [row for job in peers.jobs(SETTING) for row in job.run(0.1)]


def test_every_contender_is_divided_by_backprop_in_its_own_library(rows):
    ours = [row for row in rows if not row["skipped"]]
    assert {row["steps"] for row in ours} == {8, 20}
    assert {row["name"] for row in ours} == {"torch backprop", "torch spc", "torch spc, generic path", "torch zil"}
    assert all(row["reference"] == "torch backprop" and row["cost"] > 0 for row in ours)
    assert all(row["cost"] == 1 for row in ours if row["name"] == "torch backprop")


def test_what_cannot_run_says_why(rows):
    reasons = {row["name"]: row["skipped"] for row in rows if row["skipped"]}
    assert reasons["torch"] == "it does not run here (AttributeError: no such step)"
    assert "pip install" in reasons["nobody_has_this"]
    assert {"pcx", "jpc"} <= reasons.keys()


def test_bars_are_found_and_the_table_is_written(rows):
    judged = judge({"peers": rows}, SETTING)
    assert [bar["suite"] for bar in judged] == ["peers"] * len(judged)
    assert all(bar["measured"] is not None for bar in judged if "FabricPC" not in bar["text"])
    assert judge({"peers": rows}, Setting()) == []  # those of attention are another matter
    assert sum(bar.suite == "peers" for bar in BARS) == 7
    env = {"cores": 2, "cpu": "here", "gpu": None, "torch": "2"}
    setting = {"threads": 1, "batch": 1, "heads": 1, "width": 64, "device": "cpu"}
    text = bench_text({"setting": setting, "env": env, "load": 0, "rows": {"peers": rows}, "bars": judged}, 100)
    assert "T = 20" in text
    assert "torch spc, generic path" in text
    assert "jpc: pip finds no release of it; there is no adapter" in text


def test_contenders_start_from_the_same_weights_and_each_call_is_one_update():
    x, y = peers_learning.data()
    model, adam = peers_learning.network(), None
    adam = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    F.cross_entropy(model(x), y).backward()
    adam.step()
    again = peers_learning.network()
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert set(peers_learning.our_calls(x, y, 2, "cpu")) == {"backprop", "spc", "spc, generic path", "zil"}


def test_unknown_rivals():
    with pytest.raises(UsageError, match="predictive-coding"):
        Setting(rivals="predictive-codin")
