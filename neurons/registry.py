"""One generic registry. Names, documentation and options are read from source, so listing imports nothing heavy.

A part is a class under ``@MODELS.register("name")``. Its constructor is its schema: keyword-only, typed, plain
values; the arguments with a default are its options, those without (``input``, ``width``) are wiring that its builder
supplies. The module is imported when the part is first used.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from neurons.errors import UsageError, nearest

C = TypeVar("C", bound=type)
REGISTRIES: dict[str, Registry] = {}


@dataclass(frozen=True)
class Option:
    """One constructor argument that has a default."""

    name: str
    annotation: str
    default: Any

    def check(self, owner: str, value: Any) -> Any:
        """``value`` in this option's type (an int is a float; None, as a bare ``none`` is read, the word where only
        that fits), or a UsageError that names the expected type."""
        allowed = _allowed(self.annotation)
        if value is None and type(None) not in allowed and (str in allowed or "none" in allowed):
            return "none"
        if isinstance(value, bool):
            fits = bool in allowed
        elif isinstance(value, int) and float in allowed and int not in allowed:
            return float(value)
        else:
            fits = any(isinstance(value, kind) for kind in allowed if isinstance(kind, type))
        literals = [kind for kind in allowed if not isinstance(kind, type)]
        if fits or value in literals:
            return value
        raise UsageError(f"{owner}: option '{self.name}' takes {self.annotation}, not {value!r}")


@dataclass(frozen=True)
class Entry:
    """One registered part, as its source describes it.

    ``presets``: named sets of options, the class's ``PRESETS``. ``ablations``: component -> the options that take it
    away, the class's ``ABLATIONS``; there ``"=heads"`` stands for the value of the option ``heads``.
    """

    name: str
    module: str
    class_name: str
    line: int
    doc: str
    options: tuple[Option, ...]
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)
    ablations: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        return self.doc.strip().split("\n\n")[0].replace("\n", " ").strip()

    def validate(self, kind: str, options: dict[str, Any]) -> dict[str, Any]:
        """``options`` checked key by key; unknown keys are refused with the nearest known one."""
        known = {option.name: option for option in self.options}
        owner = f"{kind} '{self.name}'"
        for key in options:
            if key not in known:
                have = ", ".join(known) or "none"
                raise UsageError(f"{owner} has no option '{key}'.{nearest(key, known)} It takes: {have}")
        return {key: known[key].check(owner, value) for key, value in options.items()}

    def defaults(self) -> dict[str, Any]:
        return {option.name: option.default for option in self.options}

    def preset(self, name: str) -> dict[str, Any]:
        """The options of a preset; UsageError with the nearest name if there is none."""
        return self._named("preset", name, self.presets)

    def ablation(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        """What takes component ``name`` away where the part has ``options``; UsageError as for a preset."""
        taken = self._named("ablation", name, self.ablations)
        return {key: _referred(value, options) for key, value in taken.items()}

    def _named(self, what: str, name: str, among: dict[str, dict[str, Any]]) -> dict[str, Any]:
        if name not in among:
            have = ", ".join(among) or "none"
            raise UsageError(f"'{self.name}' has no {what} '{name}'.{nearest(name, among)} It has: {have}")
        return among[name]


class Registry:
    """Named parts of one ``kind``, found by scanning the sources of ``packages``.

    ``variable`` is the name the registry is bound to; it is what the scan looks for in ``@MODELS.register("x")``.
    """

    def __init__(self, variable: str, kind: str, *packages: str, plural: str | None = None) -> None:
        self.variable, self.kind, self.plural = variable, kind, plural or kind + "s"
        self._packages = list(packages)
        self._scanned: dict[str, Entry] | None = None
        self._classes: dict[str, type] = {}
        REGISTRIES[self.plural] = self

    def extend(self, package: str) -> None:
        """Look for parts in ``package`` too."""
        if package not in self._packages:
            self._packages.append(package)
            self._scanned = None

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator; also sets ``cls.name``. A second class of the same name is an error."""

        def add(cls: C) -> C:
            taken = self._classes.get(name)
            if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
                raise UsageError(f"{self.kind} '{name}' is registered twice: {taken.__module__} and {cls.__module__}")
            cls.name = name  # type: ignore[attr-defined]
            self._classes[name] = cls
            return cls

        return add

    def entries(self) -> dict[str, Entry]:
        """All parts by name, in alphabetical order, without importing them."""
        if self._scanned is None:
            found: dict[str, Entry] = {}
            for package in self._packages:
                for entry in _scan(package, self.variable):
                    if entry.name in found:
                        where = f"{found[entry.name].module} and {entry.module}"
                        raise UsageError(f"{self.kind} '{entry.name}' is registered twice: {where}")
                    found[entry.name] = entry
            self._scanned = dict(sorted(found.items()))
        return self._scanned

    def names(self) -> list[str]:
        return sorted({*self.entries(), *self._classes})

    def entry(self, name: str) -> Entry:
        """The description of ``name``; UsageError with the nearest name if there is none."""
        entries = self.entries()
        if name in entries:
            return entries[name]
        if name in self._classes:
            cls = self._classes[name]
            return describe(cls.__module__, cls.__qualname__, name)
        near = nearest(name, self.names())
        raise UsageError(f"unknown {self.kind} '{name}'.{near} Try: neurons list {self.plural}")

    def get(self, name: str) -> type:
        """The class of ``name``, imported now if it was not."""
        entry = self.entry(name)
        if name not in self._classes:
            importlib.import_module(entry.module)
        return self._classes[name]

    def build(self, name: str, **arguments: Any) -> Any:
        """An instance. Options are checked against the constructor; wiring arguments are passed through."""
        entry = self.entry(name)
        wiring = {key: value for key, value in arguments.items() if key in _wiring(entry.module, entry.class_name)}
        options = entry.validate(self.kind, {key: value for key, value in arguments.items() if key not in wiring})
        return self.get(name)(**wiring, **options)


def describe(module: str, class_name: str, name: str | None = None) -> Entry:
    """The Entry of a class that is in no registry (the trainer), read from its source."""
    node = _class_node(module, class_name)
    return _entry(name or class_name, module, node)


@cache
def _tree(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise UsageError(f"module '{module}' has no source")
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _class_node(module: str, class_name: str) -> ast.ClassDef:
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return node
    raise UsageError(f"module '{module}' defines no class '{class_name}'")


@cache
def _wiring(module: str, class_name: str) -> frozenset[str]:
    arguments = _constructor(_class_node(module, class_name))
    if arguments is None:
        return frozenset()
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return frozenset(argument.arg for argument, default in pairs if default is None)


def _scan(package: str, variable: str) -> list[Entry]:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"package '{package}' was not found")
    needle = f"@{variable}.register("
    found = []
    for location in spec.submodule_search_locations:
        root = Path(location)
        for path in sorted(root.rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if needle not in text:
                continue
            module = ".".join([package, *path.relative_to(root).with_suffix("").parts])
            for node in ast.parse(text).body:
                if isinstance(node, ast.ClassDef):
                    found += [_entry(name, module, node) for name in _registered(node, variable)]
    return found


def _registered(node: ast.ClassDef, variable: str) -> list[str]:
    names = []
    for decorator in node.decorator_list:
        if (
            isinstance(decorator, ast.Call)
            and isinstance(decorator.func, ast.Attribute)
            and decorator.func.attr == "register"
            and isinstance(decorator.func.value, ast.Name)
            and decorator.func.value.id == variable
        ):
            name = decorator.args[0] if decorator.args else None
            if not (isinstance(name, ast.Constant) and isinstance(name.value, str)):
                raise UsageError(f"{variable}.register of class {node.name} needs a literal name")
            names.append(name.value)
    return names


def _constructor(node: ast.ClassDef) -> ast.arguments | None:
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            return child.args
    return None


def _entry(name: str, module: str, node: ast.ClassDef) -> Entry:
    options = []
    arguments = _constructor(node)
    if arguments is not None:
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            if default is not None:
                annotation = ast.unparse(argument.annotation) if argument.annotation else "Any"
                options.append(Option(argument.arg, annotation, ast.literal_eval(default)))
    doc = ast.get_docstring(node) or ""
    presets, ablations = (_declared(node, variable) for variable in ("PRESETS", "ABLATIONS"))
    return Entry(name, module, node.name, node.lineno, doc, tuple(options), presets, ablations)


def _declared(node: ast.ClassDef, variable: str) -> dict[str, dict[str, Any]]:
    """The named sets of options that a class declares under ``variable``."""
    for child in node.body:
        if isinstance(child, ast.AnnAssign) and ast.unparse(child.target) == variable and child.value is not None:
            found: dict[str, dict[str, Any]] = ast.literal_eval(child.value)
            return found
    return {}


def _referred(value: Any, options: dict[str, Any]) -> Any:
    return options[value[1:]] if isinstance(value, str) and value.startswith("=") else value


@cache
def _allowed(annotation: str) -> tuple[Any, ...]:
    """Types and literal values that an annotation such as ``int | None`` or ``Literal['a', 'b']`` admits."""
    plain = {"int": int, "float": float, "bool": bool, "str": str, "None": type(None)}
    allowed: list[Any] = []
    pending: list[ast.expr] = [ast.parse(annotation, mode="eval").body]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.BinOp):
            pending += [node.left, node.right]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            allowed += [ast.literal_eval(item) for item in items]
        elif ast.unparse(node) in plain:
            allowed.append(plain[ast.unparse(node)])
        else:
            raise UsageError(f"an option's type must be int, float, bool, str, None or Literal, not '{annotation}'")
    return tuple(allowed)
