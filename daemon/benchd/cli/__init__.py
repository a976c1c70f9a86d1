"""Run the command line. Each command is a module, which is imported when the command is called."""

from __future__ import annotations

import errno
import gc
import importlib
import io
import os
import sys
from typing import Final

import click

from benchd import __version__

__all__ = ["main"]

_COMMANDS: Final = {
    "watch": "Watch folders and answer every audit in them.",
    "run": "Answer every audit in files and folders once.",
    "explain": "Show which layers benchd selects from an audit, and why.",
    "export": "Print the selected ranks for PEFT, Axolotl or Bench.",
    "config": "Show the active settings, or check a file.",
}
#: Commands that only read files and print. An OSError that they do not handle comes from the output.
_PRINTING: Final = frozenset({"explain", "export", "config"})


class _Commands(click.Group):
    """Imports a command's module only when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        gc.disable()  # imported objects stay until the end, so a collection would find nothing
        command = importlib.import_module(f"benchd.cli.{cmd_name}").command
        gc.freeze()
        gc.enable()
        assert isinstance(command, click.Command)  # noqa: S101 - for the type checker; every module has one
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run the command. If its output can't be written, end with one line on stderr and exit code 1."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            closed = error.errno == errno.EPIPE  # for example by `| head`; click then ends without a message
            if closed or error.filename is not None or ctx.invoked_subcommand not in _PRINTING:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes the rest at exit
            click.echo(f"benchd: can't write the output: {error.strerror}", err=True)
            sys.exit(1)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="benchd", message="%(prog)s %(version)s")
def main() -> None:
    """Write a Bench config beside each Gradience audit in a folder, with the reasons for every choice."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may contain any bytes
    try:
        os.getcwd()
    except OSError:
        click.echo("benchd: the current folder does not exist any more; change to another one", err=True)
        sys.exit(2)
