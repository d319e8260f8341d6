"""Commands in children that are forked from a parent which has imported calojax but not begun.

Starting Python and importing takes seconds, a fork milliseconds. The parent has not started JAX, so
a child is as good as a fresh process: it can be killed without harm to others.
"""

import multiprocessing
import multiprocessing.process
import os
import pathlib

import two_stages

from calojax import cli, models
from calojax.cli import train

# Other options stay those of the tests; the last count holds.
_ONE_DEVICE = " --xla_force_host_platform_device_count=1"
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
    os.environ["XLA_FLAGS"] += _ONE_DEVICE
    redirect(output)
    models.register("two", two_stages.FAMILY)
    # Two seconds of drawing that no test here asks for.
    train._draw_losses = lambda run: None
    cli.main(arguments)


def redirect(output: pathlib.Path) -> None:
    """From here on, what a child prints goes to a file."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
