"""The figures of probed runs, read back from their SVG."""

from __future__ import annotations

import re

from baselines.report_probe import probe_figures
from baselines.report_svg import Look

LOOKS = {"mlp / spc": Look(0, 0), "mlp / backprop": Look(0, 1)}


def point(step: int, hidden: int = 3) -> dict:
    energies = [[0.0] * hidden + [2.3], [0.0] * (hidden - 1) + [0.01, 2.0], [1e-4] * (hidden - 1) + [0.02, 1.8]]
    return {"step": step, "cosine": 0.5 + step / 100, "energies": energies, "stationarity": [1.0, 0.25],
            "lambda_max": 3.5, "rate": 0.1, "passes": 12}  # fmt: skip


def document(hidden: int = 3) -> dict:
    runs = [{"seed": seed, "points": [point(10, hidden), point(20, hidden)]} for seed in (0, 1)]
    exact = {"step": 10, "cosine": 1.0, "energies": [], "stationarity": [], "lambda_max": None}
    return {"probes": {"mlp / spc": runs, "mlp / backprop": [{"seed": 0, "points": [exact]}]}}


def test_documents_without_probes_have_no_figures():
    assert probe_figures({}, LOOKS) == []
    assert probe_figures({"probes": {"unknown": [{"seed": 0, "points": [point(1)]}]}}, LOOKS) == []


def test_cosine_over_training_and_energy_over_settling():
    cosine, energy = probe_figures(document(), LOOKS)
    assert "backprop" in cosine.title
    assert energy.title == "Settling: mlp / spc"
    for told in ("training step 20, seed 0", "largest curvature 3.5", "passes 12", "0.25 of the driving error"):
        assert told in energy.caption
    named = re.findall(r">(stage \d+|loss)<", energy.svg)
    assert sorted(named) == ["loss", "stage 1", "stage 2", "stage 3"]
    assert 'id="probe-energy-0-' in energy.svg


def test_deep_chains_show_eight_stages_with_both_ends():
    _, energy = probe_figures(document(hidden=32), LOOKS)
    named = re.findall(r">stage (\d+)<", energy.svg)
    assert len(named) == 8
    assert {"1", "32"} <= set(named)


def test_what_is_not_finite_is_left_out():
    broken = document()
    broken["probes"]["mlp / spc"][0]["points"][1]["cosine"] = None
    broken["probes"]["mlp / spc"][0]["points"][1]["energies"][1] = [None, float("nan"), 0.01, 2.0]
    assert len(probe_figures(broken, LOOKS)) == 2
