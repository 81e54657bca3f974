"""The run directory: config.json, env.json, metrics.jsonl, result.json and checkpoints/*.safetensors.

It is never overwritten: ``create`` refuses a folder that is taken, and resuming refuses another configuration.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from learning.files import append_line, json_text, write_atomic, write_error
from neurons.errors import RunError, UsageError

try:
    import fcntl
except ImportError:  # Windows has no flock; there two processes on one directory are not told apart
    fcntl = None  # type: ignore[assignment]

Status = Literal["complete", "failed", "running", "interrupted"]
REPRODUCIBILITY = ("python", "torch", "numpy", "cpu", "gpu", "threads")  # a change voids bit identity on resume


class RunDirectory:
    """One run's folder. Make one with ``create``; read an existing one with ``RunDirectory(path)``.

    ``config`` is the resolved configuration as stored, ``warnings`` what the user should know about a resumed run.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.warnings: list[str] = []
        self._held = 0
        try:
            self.config: dict[str, Any] = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UsageError(f"{self.path} is not a run directory (no config.json). Try: neurons runs list") from error
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {self.path / 'config.json'}: {error}") from error

    @classmethod
    def create(cls, path: Path | str, config: dict[str, Any], *, resume: bool = False) -> RunDirectory:
        """The directory of a new run, or with ``resume`` that of an earlier one if there is one.

        ``config`` is plain JSON data that determines the run: two configurations that may resume each other are equal.
        Raises RunError if the folder is taken or cannot be written, UsageError if ``config`` is not the stored one.
        """
        from learning.distributed import rank  # here, because it imports torch and reading runs needs none

        path = Path(path)
        if rank():
            return Follower(path, config)
        stored = path / "config.json"
        try:
            if stored.exists():
                return cls._reopen(path, config, resume)
            if path.is_dir() and any(entry.name != "config.json.tmp" for entry in path.iterdir()):
                raise RunError(f"{path} is not empty and holds no run. Choose another folder with --out DIR")
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(path, error) from error
        write_atomic(stored, _json(config))  # first, so that from here on the folder is known for what it is
        return cls(path)._prepare()

    @classmethod
    def _reopen(cls, path: Path, config: dict[str, Any], resume: bool) -> RunDirectory:
        run = cls(path)
        if not resume:
            raise RunError(f"{path} already holds a run ({run.status}). Add --resume auto, or choose another --out DIR")
        difference = _first_difference(identity(run.config), identity(json.loads(_json(config))))
        if difference is not None:
            key, there, asked = difference
            raise UsageError(
                f"cannot resume {path}: '{key}' is {there} there, but {asked} was asked. Choose another --out DIR"
            )
        return run._prepare()

    def _prepare(self) -> RunDirectory:
        try:
            (self.path / "checkpoints").mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(self.path, error) from error
        from learning.environment import environment  # here, because it imports torch and reading runs needs none

        here, file = environment(), self.path / "env.json"
        if not file.exists():
            write_atomic(file, _json(here))
            return self
        there = self.environment
        changed = [key for key in REPRODUCIBILITY if there.get(key) != here[key]]
        if changed:
            what = ", ".join(f"{key} {there.get(key)} -> {here[key]}" for key in changed)
            self.warnings.append(f"resumed in another environment ({what}): bit-identical results are not promised")
        return self

    @property
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.path / "checkpoints" / "last.safetensors"

    @property
    def best(self) -> Path:
        """The weights with the best held-out value, where the trainer selects."""
        return self.path / "checkpoints" / "best.safetensors"

    @property
    def weights(self) -> Path:
        """The checkpoint to evaluate: the best if one was selected, else the last. RunError if there is none yet."""
        for path in (self.best, self.last):
            if path.exists():
                return path
        raise RunError(f"{self.path} holds no checkpoint yet. Run the same training command with --resume auto")

    @property
    def config_hash(self) -> str:
        """16 hex digits of the configuration."""
        return hashlib.sha256(_json(self.config)).hexdigest()[:16]

    @property
    def environment(self) -> dict[str, Any]:
        """What env.json says the run started on."""
        return self._read("env.json") or {}

    @property
    def result(self) -> dict[str, Any] | None:
        """result.json, or None while there is none."""
        return self._read("result.json")

    @property
    def status(self) -> Status:
        """complete or failed as result.json says; else running while a process holds the lock, else interrupted."""
        result = self.result
        if result is not None:
            return "failed" if result.get("status") == "failed" else "complete"
        if self._held:
            return "running"
        handle = self._acquire()
        if handle is None:
            return "running"
        os.close(handle)
        return "interrupted"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory while writing to it; may be nested. RunError if another process holds it.

        The operating system drops the lock with the process, so nothing is left behind by kill -9.
        """
        handle = None
        if not self._held:
            deadline = time.monotonic() + 0.5  # a status query holds the lock for microseconds
            while (handle := self._acquire()) is None:
                if time.monotonic() > deadline:
                    raise RunError(
                        f"{self.path} is being written by another process. Wait for it, or choose another --out DIR"
                    )
                time.sleep(0.01)
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if handle is not None:
                os.close(handle)

    def _acquire(self) -> int | None:
        """A handle that holds the lock until it is closed, or None if another one does."""
        if fcntl is None:
            return os.open(self.path / "config.json", os.O_RDONLY)
        handle = os.open(self.path / "config.json", os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        return handle

    def append(self, row: dict[str, Any]) -> None:
        """Add one row to metrics.jsonl, at once; numbers that are not finite become null."""
        append_line(self.path / "metrics.jsonl", json_text(row))

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a last line that a crash tore is left out."""
        return [row for row, _ in self._scan()]

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Go back to ``step``: drop later (and torn) rows and the mark of a failure; returns the rows kept."""
        kept, end = [], 0
        for row, offset in self._scan():
            if row["step"] > step:
                break
            kept.append(row)
            end = offset
        try:
            if (self.path / "metrics.jsonl").exists():
                os.truncate(self.path / "metrics.jsonl", end)
            if self.status == "failed":
                (self.path / "result.json").unlink()
        except OSError as error:
            raise write_error(self.path / "metrics.jsonl", error) from error
        return kept

    def _scan(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Whole rows, each with the offset of its end."""
        path, offset = self.path / "metrics.jsonl", 0
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is empty or torn
            offset += len(line) + 1
            try:
                row = json.loads(line)
            except ValueError as error:
                raise RunError(
                    f"{path} line {number} is not JSON. Restore the file, or choose another --out DIR"
                ) from error
            yield row, offset

    def write_result(self, result: dict[str, Any]) -> None:
        """Write result.json, whole or not at all; numbers that are not finite become null."""
        write_atomic(self.path / "result.json", _json(result))

    def fail(self, message: str) -> None:
        """Leave word in result.json that the run failed, if the disk still takes it."""
        with contextlib.suppress(RunError):
            self.write_result({"schema": 1, "status": "failed", "error": message})

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {self.path / name}: {error}") from error
        return found


class Follower(RunDirectory):
    """The run directory as the processes above rank 0 have it: they know the configuration and write nothing."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path, self.config = path, config
        self.warnings, self._held = [], 0

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        yield

    def append(self, row: dict[str, Any]) -> None:
        pass

    def rows(self) -> list[dict[str, Any]]:
        return []

    def rewind(self, step: int) -> list[dict[str, Any]]:
        return []

    def write_result(self, result: dict[str, Any]) -> None:
        pass


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """What makes two configurations the same run; where the data lies on this machine does not (its hash does)."""
    return {key: value for key, value in config.items() if key != "data_dir"}


def _json(value: Any) -> bytes:
    return (json_text(value, indent=2) + "\n").encode()


_ABSENT = object()


def _first_difference(there: Any, asked: Any, key: str = "") -> tuple[str, str, str] | None:
    """Dotted key and both values of the first place where two JSON documents differ."""
    if isinstance(there, dict) and isinstance(asked, dict):
        for name in [*there, *(name for name in asked if name not in there)]:
            inner = _first_difference(
                there.get(name, _ABSENT), asked.get(name, _ABSENT), f"{key}.{name}" if key else name
            )
            if inner is not None:
                return inner
        return None
    if there == asked and type(there) is type(asked):
        return None
    return key, _spell(there), _spell(asked)


def _spell(value: Any) -> str:
    return "absent" if value is _ABSENT else json.dumps(value)
