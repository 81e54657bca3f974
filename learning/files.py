"""Files that are either whole or absent: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from pathlib import Path
from typing import Any

from neurons.errors import RunError


def write_atomic(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``; after a crash at any moment it holds the old bytes or the new ones.

    Raises RunError in one line if the disk is full or the folder cannot be written; the old file is then intact and the
    temporary one (``path`` + ``.tmp``) removed.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise write_error(path, error) from error


def append_line(path: Path, line: str) -> None:
    """Append ``line`` and a newline in one write, so that a crash can tear the last line only."""
    try:
        with open(path, "ab", buffering=0) as file:
            end, data = file.tell(), line.encode() + b"\n"
            if file.write(data) != len(data):  # a disk that fills up may take a part and say nothing
                file.truncate(end)
                raise OSError(errno.ENOSPC, "disk full")
    except OSError as error:
        raise write_error(path, error) from error


def write_error(path: Path, error: OSError) -> RunError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(
            f"disk full while writing {path}; what was saved before is intact. Free space, then resume the run"
        )
    return RunError(f"cannot write {path}: {error.strerror or error}. Choose another folder with --out DIR")


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON: it has no NaN and no infinity, so numbers that are not finite become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; Windows has no such call."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
