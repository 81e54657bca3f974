"""What is costly to make once is kept: trained tokenizers, generated data, encoded corpora.

A cached file's name carries the hash of everything it was made from, so it never goes stale. Files are written beside
their place and renamed into it: a reader sees a whole file or none, and of two processes that race the last one wins
with the same content. A cache that cannot be written costs time, never the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def cache_dir() -> Path:
    """``NEURONS_CACHE``, else the platform's cache folder for ``neurons``."""
    named = os.environ.get("NEURONS_CACHE")
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "neurons"


def key(**parts: Any) -> str:
    """24 hex digits over plain values (numbers, strings, lists), the same on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def cached_bytes(name: str, make: Callable[[], bytes]) -> bytes:
    """The content of cache file ``name``, made and kept if it is absent or damaged.

    A file is its content's sha256 followed by the content.
    """
    path = cache_dir() / name
    with contextlib.suppress(OSError):
        stored = path.read_bytes()
        if hashlib.sha256(stored[32:]).digest() == stored[:32]:
            return stored[32:]
    content = make()
    with contextlib.suppress(OSError):  # read-only or full: go on without a cache
        write_atomically(path, hashlib.sha256(content).digest() + content)
    return content


def cached_arrays(name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """As ``cached_bytes`` for named arrays (uncompressed npz, nothing pickled)."""

    def packed() -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **make())
        return buffer.getvalue()

    with np.load(io.BytesIO(cached_bytes(name, packed)), allow_pickle=False) as archive:
        return dict(archive)


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to a temporary file in the same folder, then rename it to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
