"""The cost of a language model's parts: what is counted, against counts by hand. No time is asserted."""

from __future__ import annotations

import json

import pytest
import torch

from baselines import language_cost
from baselines.language_cost import OURS, REFERENCE, TWIN, position_costs, preset_costs
from neurons.specs import Batch, InputSpec, OutputSpec


def test_ours_stands_beside_a_gpt_of_as_many_parameters_and_its_twin() -> None:
    rows = {row["model"]: row for row in preset_costs("nano", steps=1, length=8)}
    assert list(rows) == [REFERENCE, TWIN, OURS]
    assert rows[OURS]["non_embedding"] == pytest.approx(rows[REFERENCE]["non_embedding"], rel=0.05)
    assert rows[REFERENCE]["time_ratio"] == rows[REFERENCE]["saved_ratio"] == rows[TWIN]["saved_ratio"] == 1.0
    assert all(row["saved_bytes"] > row["saved_bytes_without_readout"] > 0 for row in rows.values())


def test_parts_are_taken_away_in_turn(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    language_cost.LENGTHS["nano"], kept = 8, language_cost.LENGTHS["nano"]
    try:
        asked = ["parts", "positions", "--names", "nano", "--lengths", "4", "--steps", "1"]
        language_cost.main([*asked, "--out", str(tmp_path / "cost.json")])
    finally:
        language_cost.LENGTHS["nano"] = kept
    document = json.loads((tmp_path / "cost.json").read_text())
    assert list(document["costs"]) == ["nano", "4 tokens"]
    assert {"torch", "cpu", "threads"} <= set(document["env"])
    found = document["costs"]["nano"]
    assert f"{OURS} - semantic folding" in {row["model"] for row in found}
    assert f"{OURS} - engrams" not in {row["model"] for row in found}  # nano has none
    assert all(row["model"] in capsys.readouterr().out for row in found[:1])


def test_positions_that_learn_nothing_keep_nothing_more() -> None:
    rows = {row["model"]: row for row in position_costs(16, steps=1, width=16, layers=2, heads=2)}
    assert rows["rope"]["saved_bytes"] <= rows["learned"]["saved_bytes"] + 4 * 16 * 8 * 2 * 2  # the turns, once cached
    assert rows["learned"]["non_embedding"] == rows["rope"]["non_embedding"] == rows["alibi"]["non_embedding"]


def test_the_readouts_share_is_its_logits_and_its_norm() -> None:
    specs = {"input": InputSpec("tokens", 8, 65), "output": OutputSpec("token", 65)}
    options = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0}
    batch = Batch(torch.zeros(2, 8, dtype=torch.long), torch.zeros(2, 8, dtype=torch.long))
    saved = language_cost._saved(language_cost._built(REFERENCE, specs, options), batch)
    share = saved["all"] - saved["body"]
    assert share >= 4 * 2 * 8 * 65  # log-probabilities
    assert share <= 4 * 2 * 8 * (65 + 4 * 16) + 2048  # rows, their norm, statistics, targets
