"""Commands in children that are forked from a parent which has imported calojax but not begun.

Starting Python and importing takes seconds, a fork milliseconds. The parent has not started JAX, so
a child is as good as a fresh process: it can be killed, or given a small disk, without harm to
others.
"""

import contextlib
import ctypes
import itertools
import json
import multiprocessing
import multiprocessing.process
import os
import pathlib
import resource
import shutil
import sys
from typing import NamedTuple

import two_stages

from calojax import checkpoint, cli, models
from calojax.cli import train

# Other options stay those of the tests; the last count holds.
_ONE_DEVICE = " --xla_force_host_platform_device_count=1"
# Of <sched.h> and <sys/mount.h>.
_NEW_USER, _NEW_MOUNTS, _READ_ONLY = 0x10000000, 0x00020000, 1
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


class Disk(NamedTuple):
    """What a child finds at a folder instead of what was there.

    Attributes:
      folder: where.
      room: bytes that can be written, None where nothing can.
    """

    folder: pathlib.Path
    room: int | None


def calojax_on(disk: Disk, arguments: list[str], report: pathlib.Path) -> None:
    """Runs a command that writes to ``disk`` and exits.

    ``report`` then holds JSON: its ``status``, the last ``line`` it printed, the files ``left`` on
    the disk, and whether a ``newest`` checkpoint there can be read (its steps).
    """
    os.environ["XLA_FLAGS"] += _ONE_DEVICE
    output = report.with_suffix(".output")
    redirect(output)
    models.register("two", two_stages.FAMILY)
    train._draw_losses = lambda run: None
    _lay(disk)
    status = 0
    try:
        cli.main(arguments)
    except SystemExit as stop:
        status = stop.code
    sys.stderr.flush()
    files = [path for path in disk.folder.rglob("*") if path.is_file()]
    left = [str(path.relative_to(disk.folder)) for path in files]
    line = output.read_text().strip().splitlines()[-1]
    runs = [path.parent for path in disk.folder.rglob("checkpoints")]
    newest = None
    for run in runs:
        with checkpoint.Checkpoints(run) as checkpoints:
            newest = checkpoints.load().progress.total
    report.write_text(
        json.dumps({"status": status, "line": line, "left": sorted(left), "newest": newest})
    )


def _lay(disk: Disk) -> None:
    """Mounts a small or read-only memory disk; where none may be mounted, takes what comes near."""
    with contextlib.suppress(OSError):
        _mount(disk)
        return
    if disk.room is not None:
        # No file may be larger, and whoever asks for the free space finds half of what was there.
        resource.setrlimit(resource.RLIMIT_FSIZE, (disk.room, disk.room))
        whole = shutil.disk_usage(disk.folder)
        free = (disk.room // 2**asked for asked in itertools.count())
        shutil.disk_usage = lambda path: whole._replace(free=next(free))
    elif os.geteuid():
        disk.folder.chmod(0o500)
    else:  # Whom no permission stops.
        disk.folder.rmdir()
        disk.folder.touch()


def _mount(disk: Disk) -> None:
    """Mounts a memory disk that this process alone sees.

    Raises:
      OSError: if the system does not let it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    owner, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_USER | _NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "unshare")
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {owner} 1"),
        ("gid_map", f"0 {group} 1"),
    ):
        pathlib.Path("/proc/self", name).write_text(line)
    options = b"" if disk.room is None else b"size=%d" % disk.room
    flags = _READ_ONLY if disk.room is None else 0
    if libc.mount(b"none", os.fsencode(disk.folder), b"tmpfs", flags, options):
        raise OSError(ctypes.get_errno(), "mount")
