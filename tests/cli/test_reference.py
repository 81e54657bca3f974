"""docs/cli.md is what --help says."""

from __future__ import annotations

from pathlib import Path

from cli.main import COMMANDS
from cli.reference import document


def test_the_reference_is_current():
    stored = Path(__file__).parents[2] / "docs" / "cli.md"
    assert stored.read_text(encoding="utf-8") == document(), "run: python -m cli.reference > docs/cli.md"


def test_it_covers_every_command_and_subcommand():
    titles = [line.removeprefix("## ") for line in document().splitlines() if line.startswith("## ")]
    assert titles[0] == "neurons"
    assert {title.split()[1] for title in titles[1:]} == set(COMMANDS)
    assert {"neurons data verify", "neurons runs show"} <= set(titles)
