"""The measurement of holographic recall, small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from baselines import holographic


def test_measures_what_theory_says_and_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(holographic, "WIDTHS", (64, 256))
    monkeypatch.setattr(holographic, "PAIRS", (2, 32))
    out = tmp_path / "recall.json"
    monkeypatch.setattr(sys, "argv", ["holographic", "--seeds", "10", "--out", str(out)])
    holographic.main()
    rows = {(row["width"], row["pairs"]): row for row in json.loads(out.read_text())["rows"]}
    assert len(rows) == 4
    for row in rows.values():
        assert row["recall"] == pytest.approx(row["theory"]["recall"], abs=0.1)
        assert row["signal_to_noise"] == pytest.approx(row["theory"]["signal_to_noise"], rel=0.5)
    assert rows[256, 32]["recall"] > rows[64, 32]["recall"] + 0.3
    assert "recall (theory)" in capsys.readouterr().out
