"""Run a command of benchd inside the test process."""

import inspect

from click.testing import CliRunner, Result

from benchd.cli import main


def invoke(*arguments: object, settings: str = "") -> Result:
    """Run `benchd ARGUMENTS` with `settings` as the value of $BENCHD_CONFIG. Keep standard error separate."""
    apart = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}  # click 8.1
    return CliRunner(**apart).invoke(main, [str(argument) for argument in arguments], env={"BENCHD_CONFIG": settings})
