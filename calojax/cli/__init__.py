"""The command line: ``calojax COMMAND``, one module a command, imported when it is called."""

import importlib
import os
import signal
import sys
from collections.abc import Sequence

import calojax
from calojax import files
from calojax.cli.compilation import keep_programs
from calojax.cli.interruption import stopped_by_signals
from calojax.errors import CalojaxError

COMMANDS = {
    "train": "train a model on shower files",
    "sample": "write showers of a trained model",
    "evaluate": "judge showers against a full simulation",
    "simulate": "write showers of a parametric generator, as training data",
    "convert": "write a shower file in another layout",
    "check": "tell what a shower file is and what is wrong with it",
    "download": "fetch the CaloChallenge's data sets",
    "doctor": "tell what calojax runs on and what is wrong with it",
}
# These compile nothing.
WITHOUT_PROGRAMS = ("convert", "check", "download")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; a `CalojaxError` becomes one sentence and exit status 1."""
    try:
        with stopped_by_signals():
            _run(list(sys.argv[1:] if arguments is None else arguments))
    except CalojaxError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # Who read our output (a pager, head) has gone; Python's flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno not in files.FULL:
            raise
        print(f"error: {files.refusal(error.filename or 'a file', error)}", file=sys.stderr)
        sys.exit(1)


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        print(calojax.__version__)
        return
    if name not in COMMANDS:
        print(f"{_overview()}\n\nerror: there is no command {name!r}.", file=sys.stderr)
        sys.exit(2)
    if name not in WITHOUT_PROGRAMS:
        keep_programs()
    importlib.import_module(f"calojax.cli.{name}").main(rest)


def _overview() -> str:
    lines = [f"  {name:10} {purpose}" for name, purpose in COMMANDS.items()]
    return (
        "usage: calojax COMMAND [--help] ...\n\n"
        "Fast generative simulation of calorimeter showers.\n\ncommands:\n" + "\n".join(lines)
    )
