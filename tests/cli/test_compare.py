"""compare and report: what they ask of the experiment layer (faked here), what they print, how they end."""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
from documents import PARAMETERS, comparison, one_document, row

from neurons.errors import UsageError

TINY = ("--task", "digits", "--models", "mlp,transformer:width=16", "--rules", "backprop", "--seeds", "2")


class Layer:
    def __init__(self) -> None:
        self.calls: list[dict] = []
        self.written: list[tuple[dict, Path]] = []
        self.document = comparison()

    def compare(self, grid, **rest):
        self.calls.append({"grid": grid} | rest)
        return self.document

    def load_compare(self, path):
        return json.loads((path / "compare.json").read_text())

    def gather(self, paths):
        self.calls.append({"gathered": paths})
        return self.document

    def write(self, document, path):
        self.written.append((document, path))

    def plan(self, resolved):
        if resolved.config["model"]["name"] == "transformer":
            raise UsageError("rule 'backprop' cannot train model 'transformer': as a test")
        return {"config": resolved.config, "origin": resolved.origin, "parameters": PARAMETERS, "steps": 300,
                "memory_bytes": 2**20}  # fmt: skip


@pytest.fixture
def layer(monkeypatch) -> Layer:
    made = Layer()
    monkeypatch.setitem(sys.modules, "baselines.compare", SimpleNamespace(compare=made.compare))
    document = SimpleNamespace(load_compare=made.load_compare, gather=made.gather)
    monkeypatch.setitem(sys.modules, "baselines.document", document)
    monkeypatch.setitem(sys.modules, "baselines.report", SimpleNamespace(write=made.write))
    monkeypatch.setitem(sys.modules, "baselines.plan", SimpleNamespace(plan=made.plan))
    return made


def test_flags_reach_the_grid_and_the_comparison(neurons, layer):
    more = ("--require", "mlp>transformer", "--require", "mlp > x", "--jobs", "2", "--steps", "7", "--out", "here")
    result = neurons("compare", *TINY, *more, "--match", "params")
    assert result.exit_code == 0, result.stderr
    call = layer.calls[0]
    assert call["grid"].labels == ["mlp / backprop", "transformer:width=16 / backprop"]
    assert call["grid"].seeds == (0, 1)
    assert {run.config["trainer"]["steps"] for run in call["grid"].runs} == {7}
    assert call["require"] == ("mlp>transformer", "mlp > x")
    assert (call["jobs"], call["out"], call["resume"], call["match"]) == (2, Path("here"), False, "params")
    assert call["command"].startswith("neurons compare --task digits --models mlp,transformer:width=16")
    assert "'mlp>transformer'" in call["command"]


@pytest.mark.parametrize(("text", "seeds"), [("2", (0, 1)), ("4,7", (4, 7)), ("7,", (7,))])
def test_seeds_are_a_count_or_a_list(neurons, layer, text, seeds):
    assert (
        neurons("compare", "--task", "digits", "--models", "mlp", "--rules", "backprop", "--seeds", text).exit_code == 0
    )
    assert layer.calls[0]["grid"].seeds == seeds


def test_controls_come_along_unless_left_out(neurons, layer):
    arguments = ("compare", "--task", "digits", "--models", "mlp", "--rules", "predictive-coding", "--seeds", "1")
    assert neurons(*arguments).exit_code == 0
    assert neurons(*arguments, "--no-controls").exit_code == 0
    with_controls, without = (call["grid"].labels for call in layer.calls)
    assert len(with_controls) == len(without) + 1


def test_verdict_table_and_the_reports_path_are_printed(neurons, layer):
    lines = neurons("compare", *TINY, "--out", "here").stdout.splitlines()
    assert lines[0] == comparison()["verdict"]
    assert lines[-1] == "report  here/report.html"


def test_an_unmet_requirement_is_exit_3_after_the_table(neurons, layer):
    unmet = {"expression": "a > b", "met": False, "difference": -0.05, "low": -0.08, "high": -0.02}
    met = {"expression": "b > a", "met": True, "difference": 0.05, "low": 0.02, "high": 0.08}
    layer.document = comparison(requirements=[met, unmet])
    result = neurons("compare", *TINY)
    assert result.exit_code == 3
    assert comparison()["verdict"] in result.stdout
    assert result.stderr.splitlines() == ["Error: not met: a > b (lower bound of the difference −8.0)"]
    result = neurons("compare", *TINY, "--json")
    assert result.exit_code == 3
    assert one_document(result)["requirements"][1]["met"] is False
    layer.document = comparison(requirements=[met])
    assert neurons("compare", *TINY).exit_code == 0


def test_where_lower_is_better_the_upper_bound_is_what_misses_a_requirement(neurons, layer):
    unmet = {"expression": "a > b", "met": False, "difference": -0.05, "low": -0.08, "high": 0.02}
    primary = {"name": "bits_per_byte", "higher_is_better": False}
    layer.document = comparison(requirements=[unmet], primary=primary)
    result = neurons("compare", *TINY)
    assert result.stderr.splitlines() == ["Error: not met: a > b (upper bound of the difference +0.02)"]
    assert "test bits per byte (lower is better)" in result.stdout
    assert "bits_per_byte" not in result.stdout


def test_a_row_whose_runs_failed_is_exit_1_after_the_table(neurons, layer):
    layer.document = comparison(rows=[row("mlp / backprop", 0.5, n=2, failed="non-finite loss at step 3")])
    result = neurons("compare", *TINY)
    assert result.exit_code == 1
    assert "mlp / backprop" in result.stdout
    assert result.stderr == "Error: runs failed: mlp / backprop: non-finite loss at step 3\n"


def test_json_is_the_document(neurons, layer):
    assert one_document(neurons("compare", *TINY, "--json")) == comparison()


def test_ablate_takes_the_first_model_apart_and_says_what_is_off_already(neurons, layer):
    arguments = ("compare", "--task", "digits", "--models", "neuronsv2:tiny,mlp", "--rules", "backprop", "--seeds", "1")
    result = neurons(*arguments, "--ablate", "--match", "params")
    assert result.exit_code == 0, result.stderr
    labels = layer.calls[0]["grid"].labels
    assert labels[0] == "neuronsv2:tiny / backprop"
    assert labels[-1] == "mlp / backprop"
    assert "neuronsv2:tiny - delay line / backprop" in labels
    assert "neuronsv2:tiny - fast weights / backprop" not in labels
    assert "off in neuronsv2:tiny already, not taken away: fast weights\n" in result.stderr
    assert layer.calls[0]["match"] == "params"
    assert neurons(*arguments).exit_code == 0
    assert layer.calls[1]["grid"].labels == ["neuronsv2:tiny / backprop", "mlp / backprop"]


def test_a_dry_run_of_an_ablation_lists_its_rows_and_what_each_changes(neurons, layer):
    def refuse(resolved):
        if "rhythm" in resolved.label:
            raise UsageError("no rhythm here")
        return Layer.plan(layer, resolved)

    sys.modules["baselines.plan"].plan = refuse
    arguments = ("compare", "--task", "digits", "--models", "neuronsv2", "--rules", "backprop", "--ablate", "--dry-run")
    result = neurons(*arguments)
    assert result.exit_code == 0, result.stderr
    blocks = dict(block.split("\n", 1) for block in result.stdout.split("\n\n") if "\n" in block)
    assert len(blocks["neuronsv2 / backprop"].splitlines()) > 20
    assert blocks["neuronsv2 - delay line / backprop"].split() == ["model.delay", "0", "without", "delay", "line"]
    assert blocks["neuronsv2 - rhythm / backprop"].strip() == "no rhythm here"
    told = one_document(neurons(*arguments, "--json"))
    assert told["left_out"] == ["fast weights"]
    assert [row["label"] for row in told["rows"]][:2] == ["neuronsv2 / backprop", "neuronsv2 - attention / backprop"]


def test_several_recipes_are_several_comparisons_in_folders_of_their_own(neurons, layer):
    for name in ("one", "two"):
        Path(f"{name}.toml").write_text('[task]\nname = "digits"\n[models.mlp]\n[rules.backprop]\n')
    result = neurons("compare", "one.toml", "two.toml", "--out", "both", "--json")
    assert len(one_document(result)["comparisons"]) == 2
    assert [call["out"] for call in layer.calls] == [Path("both/one"), Path("both/two")]


def test_the_first_free_folder_is_taken(neurons, layer):
    neurons("compare", *TINY)
    Path("runs/digits/compare").mkdir(parents=True)
    neurons("compare", *TINY)
    assert [call["out"] for call in layer.calls] == [Path("runs/digits/compare"), Path("runs/digits/compare-2")]


def begun(path: Path, configs: list[dict], finished: bool = False, asked: list[dict] | None = None) -> Path:
    path.mkdir(parents=True)
    asked = {"match": "steps", "minutes": None, "configs": asked if asked is not None else configs}
    (path / "budget.json").write_text(json.dumps({"budget": {}, "asked": asked, "configs": configs}))
    if finished:
        (path / "compare.json").write_text(json.dumps(comparison()))
    return path


def test_resume_auto_finds_the_unfinished_comparison_of_the_same_runs(neurons, layer):
    neurons("compare", *TINY)
    configs = [json.loads(json.dumps(run.config)) for run in layer.calls[0]["grid"].runs]
    asked = [{key: value for key, value in config.items() if key != "data_dir"} for config in deepcopy(configs)]
    for config in configs:  # what a budget may have changed
        config["trainer"]["steps"] = 99
        config["model"]["options"]["width"] = 24
        config["threads"] = 1
    wanted = begun(Path("runs/digits/compare"), configs, asked=asked)
    begun(Path("runs/digits/compare-2"), configs[:1])
    begun(Path("runs/digits/compare-3"), configs, finished=True, asked=asked)
    assert neurons("compare", *TINY, "--resume", "auto").exit_code == 0
    assert (layer.calls[1]["out"], layer.calls[1]["resume"]) == (wanted, True)
    assert neurons("compare", *TINY, "--resume", "auto", "--set", "trainer.lr=0.5").exit_code == 0
    assert layer.calls[2]["out"] == Path("runs/digits/compare-4")


def test_resume_of_a_path_must_be_a_comparison(neurons, layer):
    path = begun(Path("mine"), [])
    assert neurons("compare", *TINY, "--resume", str(path)).exit_code == 0
    assert (layer.calls[0]["out"], layer.calls[0]["resume"]) == (path, True)
    result = neurons("compare", *TINY, "--resume", "nowhere")
    assert result.exit_code == 2
    assert "no comparison to resume at 'nowhere'" in result.stderr


def test_dry_run_tells_every_row_and_those_that_cannot_run(neurons, layer):
    result = neurons("compare", *TINY, "--dry-run", "--set", "trainer.lr=0.5")
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["mlp", "/", "backprop", "300", "12,345", "10,001", "77", "1", "MiB"] in lines
    assert ["trainer.lr", "0.5", "flag"] in lines
    assert "cannot train model 'transformer': as a test" in result.stdout
    assert layer.calls == []
    assert one_document(neurons("compare", *TINY, "--dry-run", "--json"))["kind"] == "compare-plan"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--task", "digits", "--models", "mlp,transfomer"), "unknown model 'transfomer'. Did you mean 'transformer'?"),
        (("--task", "digits", "--rules", "bakprop"), "unknown rule 'bakprop'. Did you mean 'backprop'?"),
        ((*TINY[:2], "--seeds", "many"), "--seeds takes a count"),
        ((*TINY[:2], "--seeds", "-1"), "--seeds takes a count"),
        ((*TINY[:2], "--seeds", "0"), "--seeds takes a count"),
        ((*TINY, "--match", "param"), "'--match'"),
        ((*TINY, "--jobs", "0"), "'--jobs'"),
        ((*TINY, "--ablate"), "model 'mlp' declares no components to take away. These do: "),
        ((*TINY, "--minutes", "1"), "add --match time"),
        ((*TINY, "--minutes", "1", "--steps", "3", "--match", "time"), "exclude each other"),
        (("nosuch",), "no recipe 'nosuch'"),
    ],
)
def test_a_bad_comparison_is_one_line_and_exit_2(neurons, layer, arguments, told):
    result = neurons("compare", *arguments)
    assert result.exit_code == 2, result.stderr
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert layer.calls == []


def test_report_of_a_comparison_and_of_runs(neurons, layer):
    compared = begun(Path("compared"), [], finished=True)
    result = neurons("report", str(compared), "-o", "page.html")
    assert result.exit_code == 0, result.stderr
    assert layer.written == [(comparison(), Path("page.html"))]
    assert result.stdout.splitlines() == [comparison()["verdict"], "page.html"]
    for name in ("a", "b"):
        Path(name).mkdir()
        Path(name, "config.json").write_text("{}")
    assert one_document(neurons("report", "a", "b", "--json"))["report"] == "report.html"
    assert layer.calls == [{"gathered": [Path("a"), Path("b")]}]


def test_report_refuses_what_is_neither(neurons, layer):
    compared = begun(Path("compared"), [], finished=True)
    for arguments in (["nowhere"], [str(compared), "nowhere"], []):
        result = neurons("report", *arguments)
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
    assert layer.written == []
