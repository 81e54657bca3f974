"""train, eval and runs: what they ask of the experiment layer and what they print. The layer itself is faked here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from documents import PARAMETERS, one_document, run_result


class Layer:
    """Stands for baselines.experiment and remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[dict] = []
        self.result = run_result()

    def run(self, config, *, out, resume, progress, minutes):
        self.calls.append({"config": config, "out": out, "resume": resume, "minutes": minutes})
        return self.result

    def evaluate(self, run_dir, split, *, stride=None):
        self.calls.append({"run": run_dir, "split": split})
        primary = {"name": "accuracy", "value": 0.75}
        return {"run": str(run_dir), "split": split, "primary": primary, "metrics": {"accuracy": 0.75, "loss": 1.25}}

    def default_out(self, config):
        return Path("runs/free")

    def plan(self, resolved):
        self.calls.append({"plan": resolved})
        stages = [{"name": "Flatten", "output_shape": [32, 256]}]
        return {
            "config": resolved.config, "origin": resolved.origin, "parameters": PARAMETERS, "stages": stages,
            "memory_bytes": 3 * 2**20, "steps": 300, "steps_per_epoch": 41,
        }  # fmt: skip


@pytest.fixture
def layer(monkeypatch) -> Layer:
    made = Layer()
    names = ("run", "evaluate", "default_out", "plan")
    fake = SimpleNamespace(**{name: getattr(made, name) for name in names})
    monkeypatch.setitem(sys.modules, "baselines.experiment", fake)
    monkeypatch.setitem(sys.modules, "baselines.plan", fake)
    return made


TINY = ("--task", "digits", "--model", "mlp", "--rule", "backprop")


def begun(path: Path, config: dict, result: dict | None = None) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    if result is not None:
        (path / "result.json").write_text(json.dumps(result))
    return path


def resolved(*sets: str, **flags) -> dict:
    from baselines.config import resolve

    return resolve(task="digits", model="mlp", rule="backprop", sets=sets, **flags).config


def test_flags_reach_the_configuration(neurons, layer):
    result = neurons(
        "train", *TINY, "--seed", "5", "--steps", "20", "--set", "model.width=16", "--threads", "1", "--out", "here"
    )
    assert result.exit_code == 0, result.stderr
    call = layer.calls[0]
    config = call["config"]
    assert (config["seed"], config["threads"], config["trainer"]["steps"]) == (5, 1, 20)
    assert config["model"]["options"]["width"] == 16
    assert (call["out"], call["resume"], call["minutes"]) == (Path("here"), False, None)


def test_the_result_is_told_with_floors_cost_warnings_and_place(neurons, layer):
    text = neurons("train", *TINY).stdout
    score = ("81.2 % on test", "73.2 % held out", "majority 10.1 %")
    cost = ("12,345", "10,001", "77", "12.3 s", "300 steps")
    for part in (*score, *cost, "mlp by backprop on digits, seed 5", "fewer than 3 seeds", "runs/free"):
        assert part in text, part


def test_json_is_one_strict_document(neurons, layer):
    layer.result = run_result(metrics={"held_out": float("nan")})
    found = one_document(neurons("train", *TINY, "--json"))
    assert found["result"]["primary"]["value"] == 0.8125
    assert found["result"]["metrics"]["held_out"] is None
    assert found["run"] == "runs/free"


def test_dry_run_tells_every_value_with_its_origin_and_runs_nothing(neurons, layer, monkeypatch):
    monkeypatch.setenv("NEURONS_DATA_DIR", "elsewhere")
    result = neurons("train", *TINY, "--set", "model.width=16", "--dry-run")
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["model.width", "16", "flag"] in lines
    assert ["data_dir", "elsewhere", "environment"] in lines
    assert ["seed", "0", "default"] in lines
    assert ["model.name", "mlp", "flag"] in lines
    assert ["Flatten", "(32,", "256)"] in lines
    assert "12,345" in result.stdout
    assert "3 MiB" in result.stdout
    assert [list(call) for call in layer.calls] == [["plan"]]
    assert one_document(neurons("train", *TINY, "--dry-run", "--json"))["kind"] == "plan"


def test_minutes_are_passed_on_and_exclude_steps(neurons, layer):
    assert neurons("train", *TINY, "--minutes", "0.5").exit_code == 0
    assert layer.calls[0]["minutes"] == 0.5
    result = neurons("train", *TINY, "--minutes", "1", "--steps", "3")
    assert result.exit_code == 2
    assert "exclude" in result.stderr


def test_resume_auto_finds_the_newest_interrupted_run_of_the_same_configuration(neurons, layer):
    wanted = begun(Path("runs/digits/same"), resolved())
    begun(Path("runs/digits/other"), resolved("model.width=8"))
    begun(Path("runs/digits/done"), resolved(), run_result())
    assert neurons("train", *TINY, "--resume", "auto").exit_code == 0
    assert layer.calls[0]["out"] == wanted
    assert layer.calls[0]["resume"] is True


def test_resume_auto_without_such_a_run_starts_one(neurons, layer):
    begun(Path("runs/digits/other"), resolved("model.width=8"))
    assert neurons("train", *TINY, "--resume", "auto").exit_code == 0
    assert layer.calls[0]["out"] == Path("runs/free")


def test_resume_auto_with_minutes_ignores_the_calibrated_steps(neurons, layer):
    wanted = begun(Path("runs/digits/timed"), resolved(steps=12345))
    assert neurons("train", *TINY, "--resume", "auto", "--minutes", "1").exit_code == 0
    assert layer.calls[0]["out"] == wanted
    assert neurons("train", *TINY, "--resume", "auto").exit_code == 0
    assert layer.calls[1]["out"] == Path("runs/free")


def test_resume_auto_prefers_out(neurons, layer):
    begun(Path("runs/digits/same"), resolved())
    assert neurons("train", *TINY, "--resume", "auto", "--out", "mine").exit_code == 0
    assert layer.calls[0]["out"] == Path("mine")


def test_resume_of_a_path_takes_its_configuration(neurons, layer):
    path = begun(Path("somewhere/a"), resolved("model.width=8"))
    assert neurons("train", "--resume", str(path)).exit_code == 0
    assert layer.calls[0]["config"] == resolved("model.width=8")
    assert layer.calls[0]["out"] == path
    clash = neurons("train", "--resume", str(path), "--seed", "3")
    assert clash.exit_code == 2
    assert "leave out the other options" in clash.stderr
    missing = neurons("train", "--resume", "somewhere/b")
    assert missing.exit_code == 2
    assert "no run at 'somewhere/b'. Did you mean" not in missing.stderr
    near = neurons("train", "--resume", "somewheer/a")
    assert near.exit_code == 2


def test_seed_zero_beside_a_resumed_path_is_refused_too(neurons, layer):
    path = begun(Path("somewhere/a"), resolved())
    assert neurons("train", "--resume", str(path), "--seed", "0").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--task", "digts"), "unknown task 'digts'. Did you mean 'digits'?"),
        (("--task", "digits", "--model", "mpl"), "unknown model 'mpl'. Did you mean 'mlp'?"),
        (("--task", "digits", "--rule", "backprp"), "unknown rule 'backprp'. Did you mean 'backprop'?"),
        (("--task", "digits", "--strategy", "naiv"), "unknown strategy 'naiv'. Did you mean 'naive'?"),
        ((*TINY, "--set", "model.widht=3"), "model 'mlp' has no option 'widht'. Did you mean 'width'?"),
        ((*TINY, "--set", "model.width=wide"), "model 'mlp': option 'width' takes int, not 'wide'"),
        ((*TINY, "--set", "modle.width=3"), "unknown section 'modle'. Did you mean 'model'?"),
        ((*TINY, "--set", "width"), "--set takes section.option=value"),
        ((*TINY, "--steps", "0"), "'--steps'"),
        ((*TINY, "--precision", "bf61"), "'--precision'"),
        ((), "name a recipe or a task"),
        (("nosuch",), "no recipe 'nosuch'"),
    ],
)
def test_a_bad_configuration_is_one_line_and_exit_2(neurons, layer, arguments, told):
    result = neurons("train", *arguments)
    assert result.exit_code == 2, result.stderr
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert layer.calls == []


def test_eval_passes_the_split_and_prints_the_metrics(neurons, layer):
    path = begun(Path("runs/a"), resolved())
    text = neurons("eval", str(path), "--split", "test").stdout
    assert layer.calls[0] == {"run": path, "split": "test"}
    assert "75.0 %" in text
    assert "1.25" in text
    assert one_document(neurons("eval", str(path), "--json"))["split"] == "held_out"


def test_eval_of_no_run_names_the_nearest(neurons, layer):
    begun(Path("runs/digits-a"), resolved())
    result = neurons("eval", "runs/digits-b")
    assert result.exit_code == 2
    assert "no run at 'runs/digits-b'. Did you mean 'digits-a'?" in result.stderr


def test_runs_list_tells_status_value_and_damage(neurons):
    begun(Path("runs/digits/done"), resolved(), run_result())
    begun(Path("runs/digits/cut"), resolved(seed=3))
    begun(Path("runs/digits/lost"), resolved(), {"schema": 1, "status": "failed", "error": "non-finite loss"})
    begun(Path("runs/digits/broken"), {})
    Path("runs/digits/broken/config.json").write_text("{")
    found = {
        Path(run["run"]).name: run for run in map(_with_run, one_document(neurons("runs", "list", "--json"))["runs"])
    }
    assert {name: run["status"] for name, run in found.items()} == {
        "done": "complete", "cut": "interrupted", "lost": "failed", "broken": "damaged",
    }  # fmt: skip
    assert found["done"]["value"] == 0.8125
    assert found["cut"]["seed"] == 3
    text = neurons("runs", "list").stdout
    assert "81.2 %" in next(line for line in text.splitlines() if "/done" in line)
    assert len(text.splitlines()) == 5


def _with_run(run: dict) -> dict:
    return run | {"run": run["path"]}


def test_runs_list_of_nothing(neurons):
    result = neurons("runs", "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "Try: neurons train" in result.stderr
    assert neurons("runs", "list", "nowhere").exit_code == 2


def test_runs_show_prints_configuration_and_result_or_error(neurons):
    done = begun(Path("runs/done"), resolved("model.width=16"), run_result())
    text = neurons("runs", "show", str(done)).stdout
    assert "81.2 %" in text
    assert ["model.width", "16"] in [line.split() for line in text.splitlines()]
    lost = begun(Path("runs/lost"), resolved(), {"schema": 1, "status": "failed", "error": "non-finite loss"})
    assert "non-finite loss" in neurons("runs", "show", str(lost)).stdout
    assert one_document(neurons("runs", "show", str(done), "--json"))["result"]["seed"] == 5


def test_a_damaged_result_is_one_line_and_exit_1(neurons):
    path = begun(Path("runs/bad"), resolved())
    (path / "result.json").write_text("{")
    result = neurons("runs", "show", str(path))
    assert result.exit_code == 1
    assert "is damaged" in result.stderr
