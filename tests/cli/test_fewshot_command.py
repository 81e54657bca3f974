"""``neurons fewshot``: what it prints, keeps and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from documents import one_document

SMALL = ("fewshot", "--way", "3", "--queries", "2", "--episodes", "2", "--seeds", "2")


def test_one_screen_and_a_document_that_agree(neurons):
    result = neurons(*SMALL, "--readers", "nearest-code,fast-weights-hebb", "--out", "new/here.json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(Path("new/here.json").read_text())
    assert document["verdict"] in result.stdout
    assert "3-way 1-shot · 4 episodes, 24 queries" in result.stdout
    assert [row["reader"] for row in document["rows"]] == ["nearest-pixel", "nearest-code", "fast-weights-hebb"]


def test_json_is_one_document(neurons):
    found = one_document(neurons(*SMALL, "--readers", "fast-weights-off", "--json"))
    assert (found["kind"], found["way"], len(found["rows"])) == ("fewshot", 3, 2)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--way", "20"), 2, "digits has 10 classes: 20-way cannot be"),
        (("--data", "omniglott"), 2, "Did you mean 'omniglot'?"),
        (("--data", "lake", "--way", "5"), 2, "Lake's runs are 20-way 1-shot"),
        (("--data", "omniglot", "--data-dir", "nowhere"), 4, "Try: --data digits"),
    ],
)
def test_a_bad_question_is_one_line(neurons, arguments, code, told):
    result = neurons("fewshot", *arguments)
    assert result.exit_code == code, result.stderr
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1
