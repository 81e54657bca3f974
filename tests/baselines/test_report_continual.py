"""The page of a stream: well formed, and every number of a committed result in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from html_page import Page

from baselines.report_continual import page, read, write
from neurons.errors import UsageError

RESULT = Path(__file__).parents[2] / "results" / "continual" / "split-digits-sdr.json"


def test_the_page_is_well_formed_and_holds_every_number(tmp_path: Path) -> None:
    document = json.loads(RESULT.read_text())
    write(document, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert text == page(document)
    Page(text)  # its tags balance
    assert document["verdict"] in text
    for row in document["rows"]:
        for key in ("acc", "forgetting", "learning_accuracy"):
            assert f"{100 * row[key]['mean']:.1f} %" in text
        for j, value in enumerate(row["R"][-1], 1):
            assert f"after 5, on task {j}: {100 * value:.2f} %" in text


def test_a_folder_without_a_result_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no readable continual\.json"):
        read(tmp_path)
