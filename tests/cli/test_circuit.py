"""neurons show --circuit: the parts within each stage, in JSON and as a drawing."""

from __future__ import annotations

import pytest
from documents import one_document
from torch import nn

from cli.circuit import describe, drawn
from neurons import MODELS


class Told(nn.Module):
    def extra_repr(self) -> str:
        return "4 heads,\n  30 Hz"


class Optioned(nn.Module):
    def __init__(
        self, inner: nn.Module, *, somas: int, rate: float = 0.1, kind: str = "sum", window: int | None = None
    ):
        super().__init__()
        self.inner, self.somas, self.rate, self.kind, self.window = inner, somas, rate, kind, window
        self.label, self.note = "here", "not an option"


def part(name: str, parameters: int = 0, **more: object) -> dict:
    return {
        "name": name,
        "type": name.title(),
        "about": "",
        "shape": None,
        "parameters": parameters,
        "parts": [],
    } | more


def built(*stages: dict) -> dict:
    numbered = [{"index": i, "stage": one["type"], **one, "name": str(i)} for i, one in enumerate(stages)]
    counts = {"total": 1234, "non_embedding": 1200, "attention": 0}
    return {"input": "i", "output": "o", "input_shape": [2, 16], "stages": numbered, "parameters": counts}


def test_a_module_is_described_by_itself_or_by_its_options():
    assert describe(Told()) == "4 heads, 30 Hz"
    assert describe(Optioned(Told(), somas=256, rate=0.001)) == "somas 256, rate 0.001, kind sum"
    assert describe(nn.Linear(3, 4)) == ""


@pytest.mark.parametrize("name", MODELS.names())
def test_parts_account_for_the_parameters_of_their_stage(neurons, name):
    circuit = one_document(neurons("show", "model", name, "--circuit", "--json"))["circuit"]

    def check(one: dict) -> None:
        assert sum(inner["parameters"] for inner in one["parts"]) <= one["parameters"]
        for inner in one["parts"]:
            check(inner)

    for stage in circuit["stages"]:
        check(stage)


def test_the_circuit_of_neuronsv2_shows_what_it_is_made_of(neurons):
    circuit = one_document(neurons("show", "model", "neuronsv2", "--circuit", "--json", "--set", "heads=8"))["circuit"]
    parts = {part["name"]: part for part in circuit["stages"][1]["parts"]}
    assert {"norm", "attention", "dendrites", "projection"} <= set(parts)
    attention = parts["attention"]
    assert (attention["type"], attention["parameters"], attention["shape"]) == ("GammaAttention", 0, [2, 16, 128])
    assert "8" in attention["about"]
    assert parts["dendrites"]["shape"] == [2, 16, 256]
    assert {inner["name"] for inner in parts["dendrites"]["parts"]} == {"basal_branches", "apical_branches"}
    text = neurons("show", "model", "neuronsv2", "--circuit").stdout
    assert "2 x Circuit" in text
    assert all(name in text for name in ("├─ attention", "├─ dendrites", "basal_branches", "└─ projection"))


def test_options_may_be_set_with_or_without_the_section(neurons):
    for given in ("layers=3", "model.layers=3"):
        circuit = one_document(neurons("show", "model", "neuronsv2", "--circuit", "--json", "--set", given))["circuit"]
        assert len(circuit["stages"]) == 5


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--set", "layers=3"), "--set changes what --circuit draws. Try: add --circuit"),
        (("--circuit", "--set", "layrs=3"), "has no option 'layrs'. Did you mean 'layers'?"),
        (("--circuit", "--set", "layers"), "--set takes option=value, such as width=64, not 'layers'"),
        (("--circuit", "--set", "layers=many"), "option 'layers' takes int, not 'many'"),
    ],
)
def test_settings_that_cannot_be_drawn(neurons, arguments, told):
    result = neurons("show", "model", "neuronsv2", *arguments)
    assert result.exit_code == 2
    assert told in result.stderr


def test_the_drawing_indents_parts_under_their_stage():
    inner = part("branch", 30, about="4 x 32 inputs")
    stage = part("stage", 100, shape=[2, 16, 8], parts=[part("norm", 60), part("tree", 40, parts=[inner])])
    lines = [line.rstrip() for line in drawn(built(stage), 72).splitlines()]
    assert [line.split("  ")[0] if line[0] != " " else line[:32].rstrip() for line in lines if line][:9] == [
        "       input (i)",
        "       │",
        "    0  Stage",
        "       ├─ norm  Norm",
        "       └─ tree  Tree",
        "          └─ branch  Branch",
        "                4 x 32 inputs",
        "       │",
        "       output (o)",
    ]
    assert next(line for line in lines if "Stage" in line).split() == ["0", "Stage", "(2,", "16,", "8)", "100"]
    assert max(map(len, lines)) <= 72


def test_neighbours_that_are_alike_are_drawn_once():
    text = drawn(built(part("a", 5), part("b", 7), part("b", 7), part("b", 7), part("b", 8)), 80)
    rows = [line.split() for line in text.splitlines() if line.strip() and line.split()[0][0].isdigit()]
    assert rows == [["0", "A", "5"], ["1-3", "3", "x", "B", "3", "x", "7"], ["4", "B", "8"]]
