"""The command line ``calojax COMMAND``; the module of a command is imported when it is called."""

import importlib
import os
import re
import sys
import threading
from collections.abc import Sequence

import tyro

import calojax
from calojax import files
from calojax.cli.arguments import refuse
from calojax.cli.process import keep_programs, patient_screen, stopped_by_signals
from calojax.errors import CalojaxError, printable

COMMANDS = {
    "train": "train a model on shower files",
    "sample": "write showers of a trained model",
    "evaluate": "compare showers with a full simulation",
    "simulate": "write showers of a parametric generator, as training data",
    "export": "write a trained model as a program for other software",
    "convert": "write shower files in another layout",
    "check": "print what a shower file holds and what is wrong with it",
    "download": "download data sets of the CaloChallenge",
    "doctor": "print versions and devices, and what is wrong with them",
}
# Commands that compile nothing.
WITHOUT_PROGRAMS = ("convert", "check", "download")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; a `CalojaxError` becomes one sentence and exit status 1."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if threading.current_thread() is not threading.main_thread():
        # Signals and the screen belong to the program that started the thread.
        _reported(words)
        return
    with patient_screen(), stopped_by_signals():
        _reported(words)


def _reported(words: list[str]) -> None:
    """Runs a command; every error that is not a bug in calojax becomes one sentence."""
    try:
        _run(words)
        return
    except CalojaxError as error:
        sentence = str(error)
    except OSError as error:
        if error.errno in files.FULL:
            sentence = str(files.refusal(error.filename or "a file", error))
        elif error.filename is not None:
            sentence = f"{error.filename}: {error.strerror}; check the path and its permissions."
        else:
            raise
    except (RuntimeError, AssertionError, MemoryError) as error:
        sentence = _fault_of_machine(error)
        if not sentence:
            raise
    print(f"error: {printable(sentence)}", file=sys.stderr)
    sys.exit(1)


def _fault_of_machine(error: Exception) -> str:
    """The sentence about a full memory or a missing device; "" for a bug."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return "This does not fit in memory; use a smaller --batch, or fewer voxels."
    from calojax.cli.doctor import start_failure

    failure = start_failure()
    return (
        failure and f"JAX does not start ({failure}); unset JAX_PLATFORMS, or see calojax doctor."
    )


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        print(calojax.__version__)
        return
    if name not in COMMANDS:
        refuse(f"There is no command {name!r}", "calojax", name, COMMANDS)
    for word in rest:
        if re.match(r"(--[a-z.-]+=)?[A-Za-z][A-Za-z0-9+.-]+://", word):
            raise CalojaxError(
                f"{word}: is not on this machine; name a file or folder of a mounted file system."
            )
    if name not in WITHOUT_PROGRAMS:
        keep_programs()
    if name != "doctor":
        # XLA would report compilations above two minutes as a bug; errors still raise exceptions.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    module = importlib.import_module(f"calojax.cli.{name}")
    if hasattr(module, "main"):  # For commands that do more with their arguments.
        module.main(rest)
    else:
        tyro.cli(getattr(module, name), prog=f"calojax {name}", args=rest)


def _overview() -> str:
    lines = [f"  {name:10} {purpose}" for name, purpose in COMMANDS.items()]
    return (
        "usage: calojax COMMAND [--help] ...\n\n"
        "Fast generative simulation of calorimeter showers.\n\ncommands:\n" + "\n".join(lines)
    )
