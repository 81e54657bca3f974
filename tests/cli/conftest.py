"""Run commands in-process, in an empty folder, stdout apart from stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import group

Neurons = Callable[..., Result]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("NEURONS_DATA_DIR", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def neurons() -> Neurons:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(group, list(arguments), prog_name="neurons")

    return run


@pytest.fixture
def console() -> list[str]:
    """The command as a process of its own."""
    return [sys.executable, "-m", "cli"]
