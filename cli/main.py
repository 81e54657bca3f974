"""The ``neurons`` command: finds the subcommand, and turns every ending into one line and an exit code."""

from __future__ import annotations

import errno
import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from neurons.errors import NeuronsError, UsageError, nearest

COMMANDS = (
    "list",
    "show",
    "train",
    "eval",
    "sample",
    "compare",
    "continual",
    "fewshot",
    "prospective",
    "lra",
    "bench",
    "report",
    "runs",
    "data",
    "doctor",
)
INTERRUPTED = 130


class _CtrlC(NeuronsError):
    exit_code = INTERRUPTED


class Neurons(click.Group):
    """A group whose commands are the modules ``cli.<name>``, imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise UsageError(f"unknown command '{args[0]}'.{nearest(args[0], COMMANDS)} Try: neurons --help")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:  # before a run catches it, or the second one
            raise _CtrlC("interrupted") from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        arguments = sys.argv[1:] if args is None else list(args)
        if not standalone_mode:
            return super().main(arguments, prog_name, complete_var, standalone_mode=False, **extra)
        sys.exit(self._run(arguments, prog_name or "neurons", complete_var, extra))

    def _run(self, arguments: list[str], prog_name: str, complete_var: str | None, extra: dict[str, Any]) -> int:
        try:
            code = super().main(
                arguments, prog_name, complete_var, standalone_mode=False, **{"obj": arguments, **extra}
            )
        except Exception as error:
            if "--debug" in arguments:
                traceback.print_exc()
            message, code = explain(error)
            click.echo(message if code == INTERRUPTED else f"Error: {message}", err=True)
        return code if isinstance(code, int) else 0


def explain(error: Exception) -> tuple[str, int]:
    """One line for the user and the exit code."""
    if isinstance(error, click.ClickException):
        return _explain_click(error), error.exit_code
    if isinstance(error, NeuronsError):
        return _line(error), error.exit_code
    if isinstance(error, OSError) and error.errno is not None:
        where = f" '{error.filename}'" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"the disk is full{where}. Free some space, then go on with --resume auto", 1
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f"no permission to use{where or ' a file'}. Choose another folder (--out) or change its owner", 1
        return f"{error.strerror}{where}", 1
    if isinstance(error, click.exceptions.Abort):
        return "interrupted", INTERRUPTED
    return f"{type(error).__name__}: {_line(error)} (run again with --debug for the traceback)", 1


def _explain_click(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    help_of = context.command_path if context is not None else "neurons"
    if isinstance(error, click.NoSuchOption):
        known = [name for p in context.command.get_params(context) for name in p.opts] if context is not None else []
        message = f"unknown option '{error.option_name}'.{nearest(error.option_name, known)}"
    else:
        message = _line(error.format_message())
    return f"{message} Try: {help_of} --help"


def _line(value: object) -> str:
    return " ".join(str(value).split())


@click.group(
    cls=Neurons,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Environment:
  NEURONS_DATA_DIR  folder with local copies of the data sets (see: neurons data list)
  NEURONS_CACHE     folder for downloaded, generated and tokenised data
\b
Exit codes:
  0 success, 1 a run failed, 2 usage or configuration, 3 --require not met,
  4 data missing or offline, 130 interrupted (a checkpoint was written)
\b
Example:
  neurons compare --task digits --models neuronsv2,transformer --seeds 3""",
)
@click.version_option(package_name="neurons", message="neurons %(version)s")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def group() -> None:
    """Brain-inspired networks that learn by predictive coding, each claim measured beside tuned baselines.

    Results go to stdout, the log and progress to stderr; --json prints one JSON document instead of text.
    """


def main() -> NoReturn:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character is no reason to fail
    group.main(prog_name="neurons")
    raise AssertionError("unreachable: click exits")


if __name__ == "__main__":
    main()
