"""Commands in children that are forked from a parent which has imported calojax but not begun.

Starting Python and importing takes seconds, a fork milliseconds. The parent has not started JAX, so
a child is as good as a fresh process: it can be killed, or given a small disk, without harm to
others.
"""

import multiprocessing
import multiprocessing.process
import os
import pathlib

from calojax import cli
from calojax.cli import train

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["calojax.cli.train", "calojax.cli.sample", "calojax.cli.simulate", "calojax.cli.evaluate"]
)


def start(function, *arguments) -> multiprocessing.process.BaseProcess:
    """Calls a function of a test module in a child; its ``exitcode`` is as `subprocess` has it."""
    process = _CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


def calojax(arguments: list[str], output: pathlib.Path) -> None:
    """Runs a command on one device in a child, with what it prints in a file."""
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    redirect(output)
    # Two seconds of drawing that no test here asks for.
    train._draw_losses = lambda run: None
    cli.main(arguments)


def redirect(output: pathlib.Path) -> None:
    """From here on, what a child prints goes to a file."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
