"""docs/cli.md from the ``--help`` of every command: ``python -m cli.reference > docs/cli.md``."""

from __future__ import annotations

from collections.abc import Iterator

import click

WIDTH = 100


def pages(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """(command path, help text) of ``command`` and everything below it."""
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    yield context.command_path, text
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            inner = click.Context(below, info_name=name, parent=context, terminal_width=WIDTH, **below.context_settings)
            yield from pages(below, inner)


def document() -> str:
    """The whole reference in Markdown."""
    from cli.main import group

    context = click.Context(group, info_name="neurons", terminal_width=WIDTH, **group.context_settings)
    intro = "# Command line\n\nMade from `--help` by `python -m cli.reference > docs/cli.md`.\n"
    return intro + "".join(f"\n## {path}\n\n```text\n{text}\n```\n" for path, text in pages(group, context))


if __name__ == "__main__":
    click.echo(document(), nl=False)
