"""``neurons doctor``: is this installation sound, and if not, what mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click

from cli import common, table
from neurons.errors import RunError

PACKAGES = ("neurons", "learning", "tasks", "baselines", "cli")
DISTRIBUTION = "neurons"
ENOUGH_DISK = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``fix`` is what to do about a warning or a failure."""

    status: Literal["ok", "warn", "fail"]
    what: str
    detail: str
    fix: str = ""


@click.command()
@click.option("--data-dir", help="Folder with local data sets.  [env: NEURONS_DATA_DIR]")
@common.as_json
@common.debug
def command(data_dir: str | None, as_json: bool) -> None:
    """Check versions, package names, devices, data and write access. Exit 1 if something is broken.

    \b
    Example:
      neurons doctor
    """
    found = [*_python(), *_packages(), *_dependencies(), *_device(), *_data(data_dir), *_folders()]
    if as_json:
        common.emit("doctor", {"findings": [asdict(finding) for finding in found]})
    else:
        rows = [[one.status, one.what, one.detail + (f"  -> {one.fix}" if one.fix else "")] for one in found]
        click.echo(table.render([table.Column("")] * 3, rows, width=None, header=False)[0])
    broken = [one for one in found if one.status == "fail"]
    if broken:
        raise RunError(f"{len(broken)} of {len(found)} checks failed, first: {broken[0].what}: {broken[0].detail}")


def _python() -> Iterator[Finding]:
    enough = sys.version_info >= (3, 11)
    fix = "" if enough else "make an environment with Python 3.11 or newer"
    yield Finding("ok" if enough else "fail", "python", f"{platform.python_version()} at {sys.executable}", fix)


def _packages() -> Iterator[Finding]:
    """Our names are generic: another distribution may have installed over them, or stand before them on the path."""
    root = Path(__file__).parent.parent
    claims = importlib.metadata.packages_distributions()
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        here = Path(spec.origin).parent.parent if spec is not None and spec.origin else None
        others = sorted({claim for claim in claims.get(name, []) if claim.lower() != DISTRIBUTION})
        if here is None:
            yield Finding("fail", f"package {name}", "not found", "install the project again")
        elif here.resolve() != root.resolve():
            yield Finding(
                "fail", f"package {name}", f"comes from {here}, not from {root}", "use an environment of its own"
            )
        elif others:
            fix = f"pip uninstall {' '.join(others)}, or use an environment of its own"
            yield Finding("fail", f"package {name}", f"also installed by {', '.join(others)}", fix)
        else:
            yield Finding("ok", f"package {name}", str(here / name))


def _dependencies() -> Iterator[Finding]:
    """Installed versions against the distribution's requirements, and against constraints.txt in a checkout."""
    try:
        required = importlib.metadata.requires(DISTRIBUTION) or []
        from packaging.requirements import Requirement
    except (importlib.metadata.PackageNotFoundError, ImportError) as error:
        yield Finding(
            "fail", "distribution", f"'{DISTRIBUTION}' is not installed completely ({error})", "pip install -e ."
        )
        return
    tested = _constraints()
    for text in required:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, fix = requirement.name, f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("fail", name, "missing", fix)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield Finding("fail", name, f"{version}, but {requirement.specifier} is needed", fix)
        elif name in tested and version.split("+")[0] != tested[name]:
            yield Finding("warn", name, f"{version}, tested with {tested[name]}", "pip install -c constraints.txt")
        else:
            yield Finding("ok", name, version)


def _constraints() -> dict[str, str]:
    path = Path(__file__).parent.parent / "constraints.txt"
    if not path.is_file():
        return {}
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return {name: version for name, equals, version in (line.partition("==") for line in lines) if equals}


def _device() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("fail", "torch", f"cannot be imported: {error}", "pip install -c constraints.txt torch")
        return
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    fix = "set OMP_NUM_THREADS, or use --threads" if threads > cores else ""
    yield Finding("warn" if threads > cores else "ok", "threads", f"{threads} of {cores} cores", fix)
    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    yield Finding("ok", "devices", ", ".join(found))


def _data(data_dir: str | None) -> Iterator[Finding]:
    from cli.data import sources
    from tasks.data import data_root, locate

    root, fix = data_root(data_dir), "name the folder that holds the data sets with --data-dir or NEURONS_DATA_DIR"
    if root is None:
        yield Finding("warn", "data", "NEURONS_DATA_DIR is not set: generated tasks work, the others need the hub", fix)
    elif not root.is_dir():
        yield Finding("fail", "data", f"{root} is no folder", fix)
    else:
        yield Finding("ok", "data", str(root))
        for task, source in sources().items():
            if source is not None:
                place = locate(source, data_dir)
                missing = f"'{source.folder}' is not there"
                fix = "" if place else f"neurons data fetch {task}"
                yield Finding("ok" if place else "warn", f"data of {task}", str(place or missing), fix)


def _folders() -> Iterator[Finding]:
    from tasks.cache import cache_dir

    for what, folder, fix in (
        ("runs", Path("runs"), "work in a folder of yours, or choose one with --out"),
        ("cache", cache_dir(), "choose a folder with NEURONS_CACHE"),
    ):
        place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
        try:
            with tempfile.TemporaryFile(dir=place):
                free = shutil.disk_usage(place).free
        except OSError as error:
            yield Finding("fail", what, f"cannot write to {place}: {error.strerror}", fix)
            continue
        told = f"{folder} can be written, {free / 2**30:.1f} GiB free"
        yield Finding("ok", what, told) if free >= ENOUGH_DISK else Finding("warn", what, told, "free some disk space")
