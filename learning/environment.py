"""What a run ran on: versions, machine, threads, git revision."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch


def environment() -> dict[str, Any]:
    """Keys python, torch, numpy, neurons (version or None), platform, cpu, gpu (or None), threads, git_revision (or
    None when the sources are not tracked by git), git_dirty."""
    revision, dirty = _git()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "neurons": _version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "git_revision": revision,
        "git_dirty": dirty,
    }


def _version() -> str | None:
    try:
        return importlib.metadata.version("neurons")
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git() -> tuple[str | None, bool | None]:
    """Revision and dirtiness of the checkout that tracks this file; a checkout that merely surrounds it is not ours."""
    if _run_git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None, None
    revision = _run_git("rev-parse", "HEAD")
    changes = _run_git("status", "--porcelain")
    return revision, None if changes is None else bool(changes)


def _run_git(*arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
