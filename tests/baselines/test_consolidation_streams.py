"""Consolidation on against off: what is compared, and the committed result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_rel

from baselines import consolidation
from baselines.continual_config import resolve_continual
from baselines.continual_run import continual


@pytest.fixture(scope="module")
def rows() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consolidation, "STREAMS", ("split-digits",))
        patch.setattr(consolidation, "EPOCHS", 1)
        yield consolidation.measure(2)


def test_arms_are_what_continual_gives(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    for row, (off, on) in zip(rows, consolidation.CARRIERS.values(), strict=True):
        for name, arm in (("off", off), ("on", on)):
            if "benna" not in row["carrier"]:
                continue  # slow, and by the same path
            config = resolve_continual("split-digits", scenario="domain", epochs=1, seeds=(0, 1), **arm)
            document = continual(config, out=tmp_path / f"{row['carrier']} {name}")
            for key in consolidation.METRICS:
                wanted = [result["metrics"][key] for result in document["results"]]
                assert row[name][key]["values"] == pytest.approx(wanted)


def test_differences_are_paired(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        on, off = (row[name]["acc"]["values"] for name in ("on", "off"))
        assert row["on_less_off"]["acc"]["mean"] == pytest.approx(np.mean(on) - np.mean(off))
        if on != off:  # one epoch opens no gate far, so the arms of neuronsv2 may answer alike
            assert row["on_less_off"]["acc"]["p"] == pytest.approx(ttest_rel(on, off).pvalue)
    assert "on - off" in consolidation.table(rows)


def test_the_arms_differ_in_consolidation_alone() -> None:
    off, on = (arm["model"] for arm in consolidation.CARRIERS["three timescales in neuronsv2"])
    assert on == off + ":consolidate=true"
    plain, chain = consolidation.CARRIERS["benna-fusi chain in an mlp"]
    assert plain["model"] == chain["model"]
    assert (plain["strategies"], chain["strategies"]) == (["naive"], ["benna-fusi"])


def test_the_committed_result_covers_three_streams() -> None:
    place = Path(consolidation.__file__).parents[1] / "results" / "continual" / "consolidation.json"
    if not place.is_file():
        pytest.skip("no committed result")
    found = json.loads(place.read_text())["rows"]
    wanted = {(stream, carrier) for stream in consolidation.STREAMS for carrier in consolidation.CARRIERS}
    assert {(row["stream"], row["carrier"]) for row in found} == wanted
    assert all(len(row["on"]["acc"]["values"]) >= 5 for row in found)
