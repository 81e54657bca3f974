"""How parts are named, which tables of a recipe are about them, and which tables mean nothing."""

from dataclasses import replace

import pytest

from baselines.config import resolve, resolve_grid
from baselines.part import Part, ablated, taken_apart
from neurons import MODELS
from neurons.errors import UsageError


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Writes a recipe on the digits and returns its path."""
    monkeypatch.delenv("NEURONS_DATA_DIR", raising=False)

    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text('[task]\nname = "digits"\n' + text)
        return str(path)

    return write


@pytest.mark.parametrize(
    "text",
    [
        "mlp",
        "mlp:width=16",
        "neuronsv2:tiny",
        "neuronsv2:tiny:heads=1 - delay line",
        "neuronsv2 - fast weights",
    ],
)
def test_a_part_is_written_as_it_is_read(text):
    part = Part.parse("model", text)
    assert str(part) == text
    assert Part.parse("model", str(part.full)) == part.full
    assert ablated(f"{text} / backprop:x=1") == (f"{part.full} / backprop:x=1", part.ablation)


def test_a_name_covers_what_says_more():
    def covers(a, b):
        return Part.parse("model", a).covers(Part.parse("model", b))

    longer = "neuronsv2:tiny:heads=1 - rhythm"
    for name in ("neuronsv2", "neuronsv2:tiny", "neuronsv2:heads=1", "neuronsv2 - rhythm", longer):
        assert covers(name, longer)
    for name in ("mlp", "neuronsv2:text", "neuronsv2:heads=2", "neuronsv2 - attention"):
        assert not covers(name, longer)
    assert not covers(longer, "neuronsv2:tiny")


def test_an_unknown_component_is_one_clear_line():
    with pytest.raises(UsageError, match=r"no ablation 'atention'\. Did you mean 'attention'\? It has: attention, rhy"):
        Part.parse("model", "neuronsv2 - atention")
    with pytest.raises(UsageError, match=r"'mlp' has no ablation 'attention'\. It has: none"):
        Part.parse("model", "mlp - attention")


def test_the_table_of_a_preset_wins_over_the_preset_and_yields_to_flags(recipe):
    path = recipe(
        """
[trainer]
lr = 1e-2
[models.neuronsv2]
width = 48
dropout = 0.3
[models.neuronsv2.trainer]
lr = 2e-2
[models."neuronsv2:tiny"]
layers = 3
[models."neuronsv2:tiny".trainer]
lr = 3e-2
[models."neuronsv2:text"]
[rules.backprop]
"""
    )
    found = {str(run.label): run for run in resolve_grid(recipe=path, seeds=1).runs}
    assert list(found) == ["neuronsv2 / backprop", "neuronsv2:tiny / backprop", "neuronsv2:text / backprop"]
    options = {label: run.config["model"]["options"] for label, run in found.items()}
    rates = {label: run.config["trainer"]["lr"] for label, run in found.items()}
    shown = {
        label.split(" / ")[0]: (o["width"], o["layers"], o["dropout"], rates[label]) for label, o in options.items()
    }
    preset = MODELS.entry("neuronsv2").presets
    assert shown == {
        "neuronsv2": (48, 2, 0.3, 2e-2),
        "neuronsv2:tiny": (preset["tiny"]["width"], 3, 0.3, 3e-2),
        "neuronsv2:text": (preset["text"]["width"], 4, preset["text"]["dropout"], 2e-2),
    }
    tiny = found["neuronsv2:tiny / backprop"]
    assert tiny.origin["model.layers"] == tiny.origin["model.name"] == f"file {path}"
    assert tiny.origin["model.width"] == "preset tiny"
    named = resolve(recipe=path, model="neuronsv2:tiny:layers=5", rule="backprop")
    assert named.config["model"]["options"]["layers"] == 5
    assert named.config["trainer"]["lr"] == 3e-2
    assert named.origin["model.layers"] == "flag"
    assert resolve(recipe=path, model="neuronsv2", rule="backprop").config["model"]["options"]["layers"] == 2


def test_the_longest_name_wins_wherever_its_table_stands(recipe):
    path = recipe(
        """
[models."neuronsv2:tiny:heads=1"]
layers = 5
[models."neuronsv2:tiny"]
layers = 3
[models.neuronsv2]
layers = 4
[rules.backprop]
"""
    )
    layers = {run.label: run.config["model"]["options"]["layers"] for run in resolve_grid(recipe=path, seeds=1).runs}
    assert list(layers.values()) == [5, 3, 4]


def test_the_table_of_a_rule_with_options_is_about_its_control_too(recipe):
    path = recipe(
        """
[models.mlp]
[rules.predictive-coding]
steps = 3
[rules."predictive-coding:variant=zil"]
steps = 9
"""
    )
    for chosen in ({}, {"models": ["mlp"], "rules": ["predictive-coding"]}):
        runs = resolve_grid(recipe=path, seeds=1, **chosen).runs
        assert {run.label: run.config["rule"]["options"]["steps"] for run in runs} == {
            "mlp / predictive-coding": 3,
            "mlp / predictive-coding:variant=zil": 9,
        }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[models."neuronsv2:tinny"]', "no preset 'tinny'. Did you mean 'tiny'?"),
        ('[models."mlp:tiny"]', "an option is written key=value, not 'tiny'"),
        ("[models.mpl]", "unknown model 'mpl'. Did you mean 'mlp'?"),
        ('[models."mlp:width=8"]\nwidth = 9', "[models.\"mlp:width=8\"] sets 'width', which its name has set"),
        ('[models."neuronsv2 - delay line"]\ndelay = 9', "sets 'delay', which its name has set"),
        ("[models.neuronsv2.tiny]\nlayers = 3", '\'tiny\' is a table, and an option is a plain value. A preset has a '
         'table of its own: [models."neuronsv2:tiny"]'),
        ("[models.mlp.extra]\nlayers = 3", "'extra' is a table, and an option is a plain value."),
        ("[models]\nmlp = 3", "must be a table of options, not 3"),
        ('[models."neuronsv2:tiny"]\nlayer = 3', "no option 'layer'. Did you mean 'layers'?"),
    ],
)  # fmt: skip
def test_a_table_that_means_nothing_is_one_clear_line(recipe, text, told):
    path = recipe(text + "\n[rules.backprop]\n")
    with pytest.raises(UsageError) as caught:
        resolve_grid(recipe=path, seeds=1)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_is_taken_apart_one_component_at_a_time():
    entry = MODELS.entry("neuronsv2")
    part = Part.parse("model", "neuronsv2:tiny")
    without, off = taken_apart(part, entry.defaults())
    assert off == ["fast weights"]
    assert [one.ablation for one in without] == [name for name in entry.ablations if name not in off]
    assert {str(one.full) for one in without} == {"neuronsv2:tiny"}


def test_what_cannot_be_taken_apart_is_one_clear_line(monkeypatch):
    entry = MODELS.entry("neuronsv2")
    with pytest.raises(UsageError, match=r"'mlp' declares no components to take away\. These do: .*neuronsv2"):
        taken_apart(Part("mlp"), {})
    with pytest.raises(UsageError, match=r"lacks a component already\. Try: --ablate with 'neuronsv2'"):
        taken_apart(Part.parse("model", "neuronsv2 - rhythm"), entry.defaults())
    only = replace(entry, ablations={"fast weights": entry.ablations["fast weights"]})
    monkeypatch.setattr(MODELS, "entry", {"neuronsv2": only}.get)
    with pytest.raises(UsageError, match="'neuronsv2': every component is off already"):
        taken_apart(Part("neuronsv2"), entry.defaults())


@pytest.mark.parametrize("text", ["neuromanifold_gpt:folding=True", "neuromanifold_gpt:tied=false:manifold=none"])
def test_truth_survives_a_label(text: str) -> None:
    part = Part.parse("model", text)
    assert Part.parse("model", str(part)) == part
    assert isinstance(next(iter(part.options.values())), bool)


def test_none_is_the_word_where_an_option_takes_no_none():
    part = Part.parse("model", "neuromanifold_gpt:position=none:hyper_connections=none:latent=none")
    assert part.options == {"position": "none", "hyper_connections": "none", "latent": None}
    assert Part.parse("model", str(part)) == part
