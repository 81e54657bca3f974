"""Endings: every failure is one line on stderr and the right exit code; --debug adds the traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cli.main import COMMANDS, group
from neurons.errors import DataError, RequirementError, RunError, UsageError

ROOT = Path(__file__).parents[2]


def one_line(result) -> str:
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture
def broken(monkeypatch):
    """Make `neurons list` raise what the test gives."""

    def put(error: BaseException) -> None:
        def raises(*_):
            raise error

        monkeypatch.setattr("cli.common.kinds", raises)

    return put


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (RunError("the loss is NaN"), 1, "Error: the loss is NaN"),
        (UsageError("no such thing"), 2, "Error: no such thing"),
        (RequirementError("a is not above b"), 3, "Error: a is not above b"),
        (DataError("no data"), 4, "Error: no data"),
        (RunError("two\nlines"), 1, "Error: two lines"),
        (
            ZeroDivisionError("division"),
            1,
            "Error: ZeroDivisionError: division (run again with --debug for the traceback)",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "x.json"), 1, "Error: the disk is full 'x.json'."),
        (PermissionError(errno.EACCES, "Permission denied", "runs"), 1, "Error: no permission to use 'runs'."),
        (OSError(errno.EROFS, "Read-only file system"), 1, "Error: no permission to use a file."),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "y"), 1, "Error: Is a directory 'y'"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_every_error_is_one_line_with_its_exit_code(neurons, broken, error, code, told):
    broken(error)
    result = neurons("list")
    assert result.exit_code == code
    assert one_line(result).startswith(told)


def test_an_interrupted_run_says_where_it_can_go_on(neurons, broken):
    from learning.interrupt import Interrupted

    broken(Interrupted("interrupted at step 7; go on with --resume auto"))
    result = neurons("list")
    assert result.exit_code == 130
    assert one_line(result) == "interrupted at step 7; go on with --resume auto"


@pytest.mark.parametrize("arguments", [("--debug", "list"), ("list", "--debug")])
def test_debug_shows_the_traceback_before_or_after_the_command(neurons, broken, arguments):
    broken(ZeroDivisionError("division"))
    result = neurons(*arguments)
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stdout == ""


def test_no_traceback_without_debug(neurons, broken):
    broken(ZeroDivisionError("division"))
    assert "Traceback" not in neurons("list").stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("trian",), "Error: unknown command 'trian'. Did you mean 'train'? Try: neurons --help"),
        (("list", "modles"), "Error: unknown kind 'modles'. Did you mean 'models'? Try: neurons list"),
        (
            ("show", "attention", "gama"),
            "Error: unknown attention 'gama'. Did you mean 'gamma'? Try: neurons list attentions",
        ),
        (
            ("show", "rule", "bakprop"),
            "Error: unknown rule 'bakprop'. Did you mean 'backprop'? Try: neurons list rules",
        ),
        (
            ("train", "--modle", "x"),
            "Error: unknown option '--modle'. Did you mean '--model'? Try: neurons train --help",
        ),
        (
            ("data", "list", "--jsn"),
            "Error: unknown option '--jsn'. Did you mean '--json'? Try: neurons data list --help",
        ),
        (("show", "model"), "Error: Missing argument 'NAME'. Try: neurons show --help"),
    ],
)
def test_near_misses_are_suggested(neurons, arguments, told):
    result = neurons(*arguments)
    assert result.exit_code == 2
    assert one_line(result) == told


def test_every_command_has_a_help_with_an_example():
    context = click.Context(group, info_name="neurons", **group.context_settings)
    for name in COMMANDS:
        command = group.get_command(context, name)
        parts = [command, *command.commands.values()] if isinstance(command, click.Group) else [command]
        for part in parts:
            text = part.get_help(click.Context(part, info_name=name, parent=context))
            assert "Example" in text, part.name
            assert "neurons " in text.split("Example")[1], part.name


def test_help_names_the_environment_and_the_exit_codes(neurons):
    text = neurons("--help").stdout
    for word in ("NEURONS_DATA_DIR", "NEURONS_CACHE", "130", *COMMANDS):
        assert word in text


@pytest.mark.parametrize("arguments", [["list", "models"], ["list", "models", "--json"], ["--help"]])
def test_a_closed_pipe_ends_quietly(console, arguments):
    reader, writer = os.pipe()
    os.close(reader)  # nobody reads: writing fails with EPIPE
    done = subprocess.run([*console, *arguments], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, text=True)
    os.close(writer)
    assert done.returncode != 0
    assert done.stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["list"], ["list", "models"], ["show", "model", "mlp"], ["train", "--help"], ["compare", "-h"]],
)
def test_torch_is_not_imported(arguments):
    program = (
        "import sys\nfrom cli.main import group\n"
        f"try:\n    group.main({arguments!r}, prog_name='neurons')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_terminal_without_unicode_still_gets_its_list(console, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    monkeypatch.setenv("COLUMNS", "30")  # so that summaries end in an ellipsis
    done = subprocess.run([*console, "list", "models"], capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert b"?" in done.stdout
