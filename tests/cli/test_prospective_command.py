"""``neurons prospective``: what it prints, keeps and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from documents import one_document

SMALL = (
    "prospective",
    "--data",
    "digits",
    "--seeds",
    "2",
    "--rates",
    "0.002,0.0005",
    "--iterations",
    "3",
    "--images",
    "20",
)


def test_one_screen_a_document_and_a_figure_that_agree(neurons):
    result = neurons(*SMALL, "--out", "new/here.json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(Path("new/here.json").read_text())
    assert document["verdict"] in result.stdout
    assert "digits: two tasks in turns of 4, 3 iterations, 20 images a class · 2 seeds · gain 1" in result.stdout
    assert "0.002  0.0005" in result.stdout
    assert document["kind"] == "prospective"
    assert document["command"].startswith("neurons prospective --data digits")
    assert Path("new/here.svg").is_file()


def test_json_is_one_document(neurons):
    found = one_document(neurons(*SMALL, "--json"))
    assert (found["kind"], [row["rule"] for row in found["rows"]]) == ("prospective", ["predictive-coding", "backprop"])


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--rates", "fast"), 2, "--rates takes numbers"),
        (("--data", "digitz"), 2, "Did you mean 'digits'?"),
        (("--data-dir", "nowhere"), 4, "fashion"),
    ],
)
def test_a_bad_question_is_one_line(neurons, arguments, code, told):
    result = neurons("prospective", *arguments)
    assert result.exit_code == code, result.stderr
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1
