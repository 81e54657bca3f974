"""One-pass recall: the published figures, the rule that recalls everything, and the document."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from baselines import recall


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], dict]:
    return {(row["rule"], row["condition"]): row for row in recall.measure(6)}


def test_one_rule_recalls_everything(found: dict) -> None:
    for condition in recall.CONDITIONS:
        assert found["rls, discount .97", condition]["mean"] >= 0.99


def test_the_others_recall_what_was_measured_before(found: dict) -> None:
    published = {
        ("hebb", "64 independent pairs"): 0.995,
        ("delta", "64 independent pairs"): 0.979,
        ("hebb", "32 re-bound keys"): 0.528,
        ("hebb, leak .95", "32 re-bound keys"): 0.927,
        ("delta", "32 re-bound keys"): 0.994,
    }
    for place, value in published.items():
        assert found[place]["mean"] == pytest.approx(value, abs=0.07)
    for rule in ("hebb", "delta"):
        assert found[rule, "32 keys of common cosine .9"]["mean"] < 0.2


def test_the_committed_result_is_what_the_command_gives(found: dict) -> None:
    document = json.loads((Path(recall.__file__).parents[1] / "results" / "recall.json").read_text())
    assert {(row["rule"], row["condition"]) for row in document["rows"]} == set(found)
    for row in document["rows"]:
        mine = found[row["rule"], row["condition"]]
        assert row["state_bytes"] == mine["state_bytes"]
        assert len(row["seeds"]) == 20
        assert row["seeds"][:6] == pytest.approx(mine["seeds"], abs=1 / 32)  # one key of 32, where rounding decides


def test_states_cost_what_they_hold(found: dict) -> None:
    assert {row["state_bytes"] for row in found.values()} == {4 * 64 * 64, 2 * 4 * 64 * 64 + 8}


def test_conditions_are_what_they_say() -> None:
    for condition, (count, cosine, twice) in recall.CONDITIONS.items():
        key, written, value = recall.pairs(condition, 0)
        between = (key @ key.T)[~torch.eye(count, dtype=torch.bool)]
        assert between.mean().item() == pytest.approx(cosine, abs=0.05)
        assert len(written) == len(value) == count * (2 if twice else 1)
    assert recall.recalled(torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.eye(2)) == 1
    assert recall.recalled(torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.eye(2)) == 0


def test_writes_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "recall.json"
    monkeypatch.setattr(sys, "argv", ["recall", "--seeds", "2", "--out", str(out)])
    recall.main()
    document = json.loads(out.read_text())
    assert len(document["rows"]) == len(recall.RULES) * len(recall.CONDITIONS)
    assert all(len(row["seeds"]) == 2 for row in document["rows"])
    assert "torch" in document["env"]
    assert "32,776" in capsys.readouterr().out
