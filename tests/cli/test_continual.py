"""``neurons continual``: what it asks for, prints, keeps and refuses."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from documents import one_document

from tasks.continual.metrics import summarise

TINY = (
    "continual", "permuted-digits", "--set", "stream.tasks=2", "--set", "trainer.steps=4", "--model",
    "mlp:width=12:dropout=0.0", "--seeds", "2",
)  # fmt: skip


def test_one_screen_and_a_document_that_agree(neurons):
    result = neurons(*TINY, "--strategies", "naive,joint,replay:size=20", "--every", "2", "--out", "here")
    assert result.exit_code == 0, result.stderr
    document = json.loads(Path("here/continual.json").read_text())
    assert document["verdict"] in result.stdout
    assert "domain-incremental" in result.stdout
    assert "replay:size=20" in result.stdout
    assert "\x1b" not in result.stdout  # no colours in a pipe
    assert "[3/3]" in result.stderr
    assert "results  here/continual.json\nreport   here/report.html" in result.stdout
    assert document["verdict"] in unescape(Path("here/report.html").read_text())
    assert len(document["results"]) == 6
    for one in document["results"]:
        assert one["metrics"]["acc"] == pytest.approx(summarise(one["R"])["acc"])
        assert one["metrics"]["aaa"] > 0
        assert one["train"]["steps"] == 8
        assert one["sees_task_id"] is False
    naive, joint, replay = document["rows"]
    assert replay["memory"]["buffer"] > 20 * 64 * 4
    assert naive["gap_closed"] in (0.0, None)
    pairs = [[r["primary"]["value"] for r in document["results"] if r["strategy"]["label"] == label]
             for label in ("joint", "naive")]  # fmt: skip
    assert joint["to_naive"]["mean"] == pytest.approx(np.mean(np.subtract(*pairs)))


def test_resume_does_what_is_left_and_nothing_twice(neurons):
    ask = (*TINY, "--strategies", "naive,si", "--out", "here")
    assert neurons(*ask).exit_code == 0
    first = json.loads(Path("here/continual.json").read_text())["results"]
    Path("here/strategies/01.json").unlink()
    again = neurons(*ask, "--resume", "auto")
    assert "[1/1] si" in again.stderr
    second = json.loads(Path("here/continual.json").read_text())["results"]
    assert [one["R"] for one in first] == [one["R"] for one in second]
    assert neurons(*ask).exit_code == 1  # never overwritten
    other = neurons(*ask, "--resume", "auto", "--epochs", "3")
    assert (other.exit_code, "another experiment" in other.stderr) == (2, True)


def test_conventions_change_what_they_should(neurons):
    found = one_document(neurons(*TINY, "--strategies", "naive", "--metrics-as", "gem", "--json"))
    one = found["results"][0]
    assert one["metrics"]["bwt"] == pytest.approx(summarise(one["R"], convention="gem")["bwt"])


def test_the_document_does_not_say_where_the_data_lies_on_this_machine(neurons, tmp_path):
    folder = tmp_path / "data sets of this machine"
    result = neurons(*TINY, "--strategies", "naive", "--data-dir", str(folder), "--out", "here", "--json")
    document = one_document(result) | {"command": None}
    assert document["config"]["stream"]["name"]
    assert folder.name not in json.dumps(document)


def test_a_learner_of_its_own_kind_stands_beside_strategies(neurons):
    found = one_document(neurons(*TINY, "--strategies", "naive,sdr-memory:units=300", "--json"))
    naive, memory = (found["results"][place] for place in (0, 2))
    assert (naive["strategy"]["kind"], memory["strategy"]["kind"]) == ("strategy", "learner")
    assert memory["model"] is None
    assert memory["rule"] is None
    assert memory["memory"]["state"] > 4 * 300**2
    assert found["rows"][1]["label"] == "sdr-memory:units=300"
    assert found["rows"][1]["acc"]["mean"] > 0.7


def test_a_dry_run_tells_options_and_runs_nothing(neurons):
    result = neurons(*TINY, "--strategies", "ewc:strength=7.0", "--set", "ewc.samples=9", "--dry-run", "--json")
    (strategy,) = one_document(result)["config"]["strategies"]
    assert (strategy["options"]["strength"], strategy["options"]["samples"]) == (7.0, 9)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("permuted-digts",), "unknown stream 'permuted-digts'. Did you mean 'permuted-digits'?"),
        (("permuted-digits", "--strategies", "ewk"), "unknown strategy 'ewk'. Did you mean 'ewc'?"),
        (("permuted-digits", "--strategies", "sdr-memori"), "'sdr-memori'. Did you mean 'sdr-memory'?"),
        (("permuted-digits", "--strategies", "sdr-memory:readout=hebb"), "least-squares"),
        (("permuted-digits", "--strategies", "sdr-memory:patch=9"), "patch=9 does not fit an input of 8 x 8"),
        (("permuted-digits", "--set", "trainr.lr=1"), "unknown section 'trainr'. Did you mean 'trainer'?"),
        (("permuted-digits", "--set", "stream.tasks=1"), "at least 2 tasks"),
        (("permuted-digits", "--strategies", "naive,naive"), "named twice"),
        (("permuted-digits", "--strategies", "replay:size=0"), "at least 1 sample"),
        (("permuted-digits", "--resume", "auto"), "needs the --out"),
    ],
)
def test_a_bad_question_is_one_line_and_exit_2(neurons, arguments, told):
    result = neurons("continual", *arguments)
    assert result.exit_code == 2, result.stderr
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not Path("runs").exists()
