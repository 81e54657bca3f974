"""Recipes, flags and environment become one checked configuration."""

import pytest

from baselines.config import resolve, resolve_grid
from baselines.part import Part, scalar
from baselines.recipe import read_recipe, recipes
from neurons.errors import UsageError


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.delenv("NEURONS_DATA_DIR", raising=False)
    path = tmp_path / "mine.toml"
    path.write_text(
        """
[task]
name = "digits"
[trainer]
steps = 7
lr = 1e-2
[models.mlp]
width = 8
[models.mlp.trainer]
lr = 5e-3
[models.transformer]
[rules.backprop]
[rules.predictive-coding]
steps = 3
"""
    )
    return str(path)


def test_layers_win_in_order_and_say_so(recipe, monkeypatch):
    monkeypatch.setenv("NEURONS_DATA_DIR", "/somewhere")
    found = resolve(recipe=recipe, sets=["trainer.batch_size=16"], seed=3)
    assert found.config["model"] == {"name": "mlp", "options": {**found.config["model"]["options"], "width": 8}}
    trainer = found.config["trainer"]
    assert (trainer["steps"], trainer["lr"], trainer["batch_size"], trainer["schedule"]) == (7, 5e-3, 16, "cosine")
    assert found.origin["trainer.batch_size"] == "flag"
    assert found.origin["trainer.lr"] == f"file {recipe}"
    assert found.origin["trainer.schedule"] == "default"
    assert found.origin["data_dir"] == "environment"
    assert (found.config["seed"], found.origin["seed"]) == (3, "flag")
    assert resolve(recipe=recipe, steps=9, sets=["trainer.steps=8"]).config["trainer"]["steps"] == 9


def test_a_set_reaches_one_model_or_all(recipe):
    grid = resolve_grid(recipe=recipe, sets=["transformer.width=12", "model.dropout=0.3"], seeds=1, controls=False)
    widths = {run.config["model"]["name"]: run.config["model"]["options"]["width"] for run in grid.runs}
    assert widths == {"mlp": 8, "transformer": 12}
    assert {run.config["model"]["options"]["dropout"] for run in grid.runs} == {0.3}


def test_a_settling_rule_brings_its_control_and_only_once(recipe):
    labels = resolve_grid(recipe=recipe, models=["mlp"], seeds=2).labels
    assert labels == ["mlp / backprop", "mlp / predictive-coding", "mlp / predictive-coding:variant=zil"]
    grid = resolve_grid(recipe=recipe, models=["mlp"], rules=["predictive-coding:variant=zil"], seeds=2)
    assert grid.labels == ["mlp / predictive-coding:variant=zil"]
    assert not grid.runs[0].control
    assert [run.config["seed"] for run in grid.runs] == [0, 1]


def test_shipped_recipes_resolve(monkeypatch):
    monkeypatch.delenv("NEURONS_DATA_DIR", raising=False)
    assert recipes()
    for name in recipes():
        document, _ = read_recipe(name)
        assert document["description"]
        grid = resolve_grid(recipe=name)
        assert grid.runs
        for row in document.get("compare", {}).get("rows", []):
            assert row in grid.labels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "digit"}, "unknown task 'digit'. Did you mean 'digits'"),
        ({"task": "digits", "model": "mpl"}, "Did you mean 'mlp'"),
        ({"task": "digits", "rule": "backprob"}, "Did you mean 'backprop'"),
        ({"task": "digits", "sets": ["trainer.stepz=3"]}, "no option 'stepz'. Did you mean 'steps'"),
        ({"task": "digits", "sets": ["trainer.steps=many"]}, "takes int, not 'many'"),
        ({"task": "digits", "sets": ["trainer.steps=true"]}, "takes int, not True"),
        ({"task": "digits", "sets": ["trainr.steps=3"]}, "unknown section 'trainr'. Did you mean 'trainer'"),
        ({"task": "digits", "sets": ["steps=3"]}, "section.option=value"),
        ({"task": "digits", "model": "mlp:width"}, "key=value"),
        ({"recipe": "no-such"}, "no recipe 'no-such'"),
        ({}, "name a recipe or a task"),
    ],
)
def test_bad_input_is_one_line_with_the_nearest_name(arguments, message):
    with pytest.raises(UsageError, match=r"(?s)") as caught:
        resolve(**arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_with_an_unknown_key_is_refused(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("[modles.mlp]\n")
    with pytest.raises(UsageError, match="Did you mean 'models'"):
        resolve(recipe=str(path))
    path.write_text('[task]\nname = "digits"\n[compare]\nseed = 3\n')
    with pytest.raises(UsageError, match="Did you mean 'seeds'"):
        resolve_grid(recipe=str(path))
    path.write_text("[task\n")
    with pytest.raises(UsageError, match=r"bad\.toml"):
        resolve(recipe=str(path))


def test_scalars_and_parts():
    assert [scalar(text) for text in ("3", "1e-3", "true", "none", "cosine", '"4"')] == [
        3,
        1e-3,
        True,
        None,
        "cosine",
        "4",
    ]
    part = Part.parse("model", "mlp:width=16")
    assert (part.name, part.options, str(part)) == ("mlp", {"width": 16}, "mlp:width=16")


def test_a_preset_wins_over_the_recipe_and_yields_to_flags():
    run = resolve(recipe="sst2", model="neuronsv2:tiny:heads=1", sets=["model.dropout=0.3"])
    options = run.config["model"]["options"]
    assert (options["width"], options["layers"]) == (32, 1)
    assert (options["heads"], options["dropout"]) == (1, 0.3)
    assert run.origin["model.width"] == "preset tiny"
    assert run.origin["model.heads"] == run.origin["model.dropout"] == "flag"
    assert run.label.startswith("neuronsv2:tiny:heads=1 /")


def test_an_unknown_preset_is_one_clear_line():
    with pytest.raises(UsageError, match=r"no preset 'tinny'. Did you mean 'tiny'\? It has: tiny, text"):
        resolve(task="sst2", model="neuronsv2:tinny")
    with pytest.raises(UsageError, match="an option is written key=value"):
        resolve(task="sst2", model="transformer:tiny")
