"""The registry: what it reads from source, what it refuses, and what every registered class owes it."""

from __future__ import annotations

import inspect
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import baselines
import learning
import tasks  # noqa: F401 - fills REGISTRIES
from neurons import MODELS
from neurons.errors import UsageError
from neurons.registry import REGISTRIES, Registry, describe
from neurons.specs import InputSpec, OutputSpec

PART = '''
from typing import Literal
from {home} import THINGS

@THINGS.register("first-thing")
class First:
    """Does one thing.

    At length.
    """

    def __init__(self, *, width: int, rate: float = 0.5, count: int = 3, on: bool = False,
                 kind: Literal["a", "b"] = "a", limit: int | None = None, shift: float = -1.0) -> None:
        self.width, self.rate, self.count, self.on, self.kind = width, rate, count, on, kind
        self.limit, self.shift = limit, shift
'''
NUMBER = itertools.count()
HOME = 'from neurons.registry import Registry\nTHINGS = Registry("THINGS", "thing", "{home}")\n'


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Registry]:
    """Writes a package of parts under a name of its own and returns its registry."""

    def make(**files: str) -> Registry:
        home = f"parts_{next(NUMBER)}"
        root = tmp_path / home
        root.mkdir()
        (root / "__init__.py").write_text(HOME.replace("{home}", home))
        for name, text in {"first": PART, **files}.items():
            (root / f"{name}.py").write_text(text.replace("{home}", home))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(REGISTRIES, "things", None)  # type: ignore[arg-type]
        module = __import__(home)
        registry: Registry = module.THINGS
        return registry

    return make


def part(name: str, cls: str) -> str:
    return f"from {{home}} import THINGS\n\n@THINGS.register({name})\nclass {cls}:\n    pass\n"


def test_scan_reads_name_documentation_and_options_without_importing(package: Callable[..., Registry]) -> None:
    things = package(broken='raise RuntimeError("imported")\n' + part('"second"', "Second"))
    entry = things.entry("first-thing")
    assert things.names() == ["first-thing", "second"]
    assert (entry.summary, entry.class_name) == ("Does one thing.", "First")
    assert entry.defaults() == {"rate": 0.5, "count": 3, "on": False, "kind": "a", "limit": None, "shift": -1.0}
    assert entry.module not in sys.modules
    with pytest.raises(RuntimeError, match="imported"):
        things.get("second")


def test_build_checks_options_and_passes_wiring_through(package: Callable[..., Registry]) -> None:
    things = package()
    built = things.build("first-thing", width="anything", rate=2, limit=7, kind="b")
    assert (built.width, built.rate, built.limit, built.kind, built.count) == ("anything", 2.0, 7, "b", 3)
    assert type(built.rate) is float
    assert built.name == "first-thing"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("count", True),
        ("count", 1.5),
        ("count", "3"),
        ("count", None),
        ("rate", "0.5"),
        ("rate", True),
        ("rate", None),
        ("on", 1),
        ("on", "true"),
        ("kind", "c"),
        ("kind", 1),
        ("limit", 1.5),
        ("limit", False),
        ("limit", [1]),
    ],
)
def test_values_of_the_wrong_type_are_refused(package: Callable[..., Registry], option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^thing 'first-thing': option '{option}' takes [^\n]+$"):
        package().build("first-thing", width=1, **{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [("count", 0), ("rate", 0.0), ("on", True), ("kind", "b"), ("limit", None), ("limit", 0), ("shift", 2.5)],
)
def test_values_of_the_right_type_are_stored_as_they_are(
    package: Callable[..., Registry], option: str, value: Any
) -> None:
    stored = getattr(package().build("first-thing", width=1, **{option: value}), option)
    assert stored == value
    assert type(stored) is type(value)


DECLARED = """    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"small": {"count": 1, "on": True}}
    ABLATIONS: ClassVar[dict[str, dict[str, Any]]] = {"rate": {"rate": 0.0}, "spare": {"limit": "=count", "kind": "b"}}

    def __init__"""


def test_presets_and_ablations_are_read_from_source(package: Callable[..., Registry]) -> None:
    text = PART.replace("first-thing", "second").replace("    def __init__", DECLARED)
    entry = package(broken='raise RuntimeError("imported")\n' + text).entry("second")
    assert entry.presets == {"small": {"count": 1, "on": True}}
    assert list(entry.ablations) == ["rate", "spare"]
    assert entry.ablation("rate", entry.defaults()) == {"rate": 0.0}
    assert package().entry("first-thing").ablations == {}


def test_an_ablation_may_refer_to_the_value_of_another_option(package: Callable[..., Registry]) -> None:
    entry = package(second=PART.replace("first-thing", "second").replace("    def __init__", DECLARED)).entry("second")
    assert entry.ablation("spare", entry.defaults() | {"count": 9}) == {"limit": 9, "kind": "b"}
    with pytest.raises(UsageError, match=r"'second' has no ablation 'rte'\. Did you mean 'rate'\? It has: rate, spare"):
        entry.ablation("rte", entry.defaults())


def test_unknown_option_names_the_nearest(package: Callable[..., Registry]) -> None:
    with pytest.raises(UsageError, match=r"no option 'cuont'\. Did you mean 'count'\? It takes: rate, count"):
        package().build("first-thing", width=1, cuont=2)


def test_unknown_name_names_the_nearest_and_the_command(package: Callable[..., Registry]) -> None:
    expected = r"^unknown thing 'frist-thing'\. Did you mean 'first-thing'\? Try: neurons list things$"
    with pytest.raises(UsageError, match=expected) as error:
        package().build("frist-thing")
    assert error.value.exit_code == 2


def test_two_parts_of_one_name_are_an_error(package: Callable[..., Registry]) -> None:
    things = package(twin=part('"first-thing"', "Twin"))
    with pytest.raises(UsageError, match=r"'first-thing' is registered twice: .*first and .*twin"):
        things.names()


def test_two_classes_registered_at_run_time_under_one_name_are_an_error(package: Callable[..., Registry]) -> None:
    things = package()
    things.register("local")(type("One", (), {}))
    with pytest.raises(UsageError, match="registered twice"):
        things.register("local")(type("Two", (), {}))


def test_a_name_must_be_a_literal(package: Callable[..., Registry]) -> None:
    things = package(second=part('"a" + "b"', "Second"))
    with pytest.raises(UsageError, match="literal name"):
        things.names()


def test_an_option_of_a_rich_type_is_refused(package: Callable[..., Registry]) -> None:
    text = part('"second"', "Second").replace("pass", "def __init__(self, *, sizes: list = None) -> None: ...")
    with pytest.raises(UsageError, match="must be int, float, bool"):
        package(second=text).build("second", sizes=[1])


def test_extend_looks_in_a_second_package(package: Callable[..., Registry]) -> None:
    things = package()
    things.extend("baselines.strategies")
    assert things.names() == ["first-thing"]  # another registry's parts are not ours
    with pytest.raises(UsageError, match="'no_such_package' was not found"):
        Registry("THINGS", "thing", "no_such_package").names()


def test_baselines_extend_the_models() -> None:
    assert MODELS.entry("transformer").module == "baselines.models.transformer"
    assert {"majority", "nb-svm"} <= set(baselines.FLOORS.names())


def test_describe_reads_a_class_outside_any_registry() -> None:
    entry = describe("baselines.models.transformer", "Transformer")
    assert entry.defaults() == MODELS.entry("transformer").defaults()
    with pytest.raises(UsageError, match="defines no class 'Absent'"):
        describe("baselines.models.transformer", "Absent")


def test_importing_and_listing_need_no_torch() -> None:
    code = (
        "import sys, neurons, learning, tasks, baselines, cli\n"
        "from neurons.registry import REGISTRIES\n"
        "assert sum(len(registry.entries()) for registry in REGISTRIES.values()) > 5\n"
        "print([name for name in ('torch', 'sklearn', 'scipy', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


WIRING = {"input": InputSpec(), "output": OutputSpec(), "width": 16, "causal": False}
PARTS = [(plural, name) for plural, registry in sorted(REGISTRIES.items()) for name in registry.names()]
every_part = pytest.mark.parametrize(("plural", "name"), PARTS, ids=["-".join(part) for part in PARTS])


@every_part
def test_scan_agrees_with_the_constructor(plural: str, name: str) -> None:
    """An inherited constructor, a decorator in the way or a positional option would make source and class disagree."""
    registry = REGISTRIES[plural]
    cls, entry = registry.get(name), registry.entry(name)
    parameters = [p for p in inspect.signature(cls).parameters.values() if cls.__init__ is not object.__init__]
    assert cls.name == name  # type: ignore[attr-defined]
    assert entry.summary, "a docstring says what the part is"
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters if p.default is not p.empty)
    options = {p.name: p.default for p in parameters if p.default is not p.empty}
    assert options == entry.defaults()
    assert registry.entry(name).validate(registry.kind, options) == options


@every_part
def test_every_part_builds_with_its_defaults_and_stores_them(plural: str, name: str) -> None:
    registry = REGISTRIES[plural]
    cls, defaults = registry.get(name), registry.entry(name).defaults()
    needed = [p.name for p in inspect.signature(cls).parameters.values() if p.default is p.empty]
    if cls.__init__ is object.__init__:
        needed = []
    if not set(needed) <= set(WIRING):
        pytest.skip(f"{sorted(set(needed) - set(WIRING))} come from its own builder")
    built = registry.build(name, **{key: WIRING[key] for key in needed})
    assert {key: getattr(built, key) for key in defaults} == defaults
    assert learning.RULES is REGISTRIES["rules"]
