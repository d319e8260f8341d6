"""``calojax doctor``: tells what calojax runs on and what is wrong with it.

`examine` gathers facts, `describe` and `problems` turn them into words; only the first of them
touches the machine.
"""

import contextlib
import importlib
import importlib.metadata
import os
import pathlib
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import tyro

import calojax
from calojax.cli.compilation import kept_in
from calojax.errors import CalojaxError, printable
from calojax.io.cache import default_folder
from calojax.io.writer import cores

PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu")
# The oldest NVIDIA driver for each CUDA (NVIDIA's CUDA compatibility guide, minor versions).
OLDEST_DRIVER = {"13": 580, "12": 525}
GIB = 2**30
# A converted dataset 2 is 2.6 GB, and a run a few hundred megabytes.
LITTLE_ROOM = 5 * GIB
# In the environment, what decides where JAX runs.
SWITCHES = (
    *("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "XLA_FLAGS", "JAX_ENABLE_X64"),
    *("SLURM_JOB_ID", "SLURM_GPUS_ON_NODE", "SLURM_CPUS_PER_TASK"),
)


class Device(NamedTuple):
    """A device that JAX sees.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      kind: its name.
      memory: bytes that JAX may take of it, None where nobody tells.
    """

    platform: str
    kind: str
    memory: int | None


class Seconds(NamedTuple):
    """What a start takes, in seconds: imports, compiling a small program, and running it."""

    imports: float
    compilation: float
    run: float


class Facts(NamedTuple):
    """The machine as calojax finds it.

    Attributes:
      versions: of Python and of packages, by name; those that are missing are left out.
      devices: of JAX; none if it does not start.
      failure: why JAX does not start, or "".
      driver: version of the NVIDIA driver, or "" without one.
      environment: variables that matter here.
      cores: CPU cores that this process may use.
      free: bytes free on the disks of these folders.
      programs: folder of compiled programs, None if none are kept.
      programs_bytes: what is in it.
      seconds: that a start takes, None if JAX does not start.
    """

    versions: Mapping[str, str]
    devices: tuple[Device, ...]
    failure: str
    driver: str
    environment: Mapping[str, str]
    cores: int
    free: Mapping[pathlib.Path, int]
    programs: pathlib.Path | None
    programs_bytes: int
    seconds: Seconds | None


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    tyro.cli(doctor, prog="calojax doctor", args=arguments)


def doctor() -> None:
    """Tells devices, versions, disks and what a start takes; status 1 if nothing can run."""
    facts = examine()
    for name, value in describe(facts):
        print(f"{name:18} {printable(value)}")
    if facts.failure:
        raise CalojaxError(f"JAX does not start ({facts.failure}); {_remedy(facts)}.")
    warnings = problems(facts)
    for sentence in warnings:
        print(f"warning: {printable(sentence)}")
    if not warnings:
        print("nothing is wrong")


# --- facts into words -----------------------------------------------------------------------------


def describe(facts: Facts) -> Iterator[tuple[str, str]]:
    """What there is, as (name, value)."""
    yield "calojax", calojax.__version__
    for name, version in facts.versions.items():
        yield name, version
    for kind in dict.fromkeys(facts.devices):
        memory = "" if kind.memory is None else f", {kind.memory / GIB:.1f} GiB each"
        yield "devices", f"{facts.devices.count(kind)} x {kind.kind} ({kind.platform}){memory}"
    yield "NVIDIA driver", facts.driver or "none"
    yield "CPU cores", str(facts.cores)
    for name, value in facts.environment.items():
        yield name, value
    for folder, free in facts.free.items():
        yield "free", f"{free / GIB:.1f} GiB at {folder}"
    kept = f"{facts.programs} ({facts.programs_bytes / 2**20:.0f} MiB)"
    yield "programs kept", kept if facts.programs else "no"
    if facts.seconds:
        yield (
            "a start takes",
            f"{facts.seconds.imports:.1f} s for imports, {facts.seconds.compilation:.2f} s to "
            f"compile a small program, {1e3 * facts.seconds.run:.2g} ms to run it",
        )


def problems(facts: Facts) -> list[str]:
    """What is wrong, a sentence each with the remedy; none if all is well."""
    return [*_device_problems(facts), *_cluster_problems(facts), *_place_problems(facts)]


def _device_problems(facts: Facts) -> Iterator[str]:
    environment, platforms = facts.environment, {device.platform for device in facts.devices}
    plugins = [name for name in PLUGINS if name in facts.versions]
    if facts.driver and "gpu" not in platforms:
        hidden = [name for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES") if name in environment]
        if not any("cuda" in name for name in plugins):
            why = f"jax has no plugin for it: {_remedy(facts)}"
        elif hidden:
            why = f"{hidden[0]} is {environment[hidden[0]]!r}: unset it"
        else:
            why = (
                "the plugin did not start, and JAX says above why: most often a driver that is too "
                "old, or no GPU in this job"
            )
        yield f"there is an NVIDIA driver but JAX runs on the {'/'.join(platforms)}; {why}."
    for name in plugins:
        version, jaxlib = facts.versions[name], facts.versions.get("jaxlib", "")
        if "cuda" in name and version != jaxlib:
            yield (
                f"{name} is {version} but jaxlib is {jaxlib}, which do not fit; install both anew: "
                f"{_remedy(facts)}."
            )
        oldest = OLDEST_DRIVER.get(name[len("jax-cuda") :][:2])
        if oldest and facts.driver and _major(facts.driver) < oldest:
            yield (
                f"the NVIDIA driver {facts.driver} is too old for {name}, which needs {oldest}; "
                f"{_remedy(facts)}."
            )
    if len(platforms) == 1 and "gpu" in platforms and len(set(facts.devices)) > 1:
        yield "the GPUs differ, and the slowest sets the pace; choose with CUDA_VISIBLE_DEVICES."
    if environment.get("JAX_ENABLE_X64", "").lower() in ("1", "true", "on", "yes"):
        yield "JAX_ENABLE_X64 is on, which calojax does not need and which costs speed; unset it."


def _cluster_problems(facts: Facts) -> Iterator[str]:
    environment = facts.environment
    if "SLURM_JOB_ID" not in environment:
        return
    gpus = sum(device.platform == "gpu" for device in facts.devices)
    given = environment.get("SLURM_GPUS_ON_NODE", "")
    if given.isdigit() and int(given) != gpus:
        yield (
            f"SLURM gave this node {given} GPUs and JAX sees {gpus}; start with srun, and look at "
            "--gpus-per-task and CUDA_VISIBLE_DEVICES."
        )
    cores = environment.get("SLURM_CPUS_PER_TASK", "")
    if cores.isdigit() and int(cores) > facts.cores:
        yield (
            f"SLURM promised {cores} cores a task and this process may use {facts.cores}; give "
            "srun --cpus-per-task too."
        )
    elif facts.cores == 1:
        yield "there is one core for everything; ask SLURM for more with --cpus-per-task."


def _place_problems(facts: Facts) -> Iterator[str]:
    for folder, free in facts.free.items():
        if free < LITTLE_ROOM:
            yield (
                f"{folder} has {free / GIB:.1f} GiB left, less than a data set needs; make room, "
                "or set CALOJAX_CACHE and --out to another disk."
            )
    if facts.programs is None:
        yield (
            "compiled programs are not kept, so every start compiles them anew; unset "
            "CALOJAX_COMPILATION_CACHE, or point CALOJAX_CACHE to a folder of your own."
        )


def _remedy(facts: Facts) -> str:
    """How to install a JAX that fits the machine."""
    if not facts.driver:
        return "pip install --upgrade calojax, and unset JAX_PLATFORMS"
    for cuda, oldest in OLDEST_DRIVER.items():
        if _major(facts.driver) >= oldest:
            return f"pip install 'calojax[cuda{cuda}]'"
    return f"update the NVIDIA driver {facts.driver} to {min(OLDEST_DRIVER.values())} or newer"


def _major(version: str) -> int:
    return int(version.split(".")[0])


# --- facts ----------------------------------------------------------------------------------------


def examine() -> Facts:
    """The machine that this process runs on."""
    versions = {"Python": platform.python_version()} | dict(_versions())
    environment = {name: os.environ[name] for name in SWITCHES if name in os.environ}
    failure = start_failure()
    seconds, devices = (None, ()) if failure else _start()
    programs = kept_in()
    return Facts(
        versions=versions,
        devices=devices,
        failure=failure,
        driver=_driver(),
        environment=environment,
        cores=cores(),
        free={folder: _free(folder) for folder in _folders()},
        programs=programs,
        programs_bytes=_size(programs) if programs else 0,
        seconds=seconds,
    )


def start_failure() -> str:
    """Why JAX does not start, "" if it does."""
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split()) or "none of the platforms in JAX_PLATFORMS is there"
    return ""


def _versions() -> Iterator[tuple[str, str]]:
    """Of what calojax depends on, and of what jax needs for devices."""
    asked = [name for name in importlib.metadata.requires("calojax") or () if "extra" not in name]
    for name in (*(re.match(r"[\w-]+", line)[0] for line in asked), "jaxlib", *PLUGINS):
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def _start() -> tuple[Seconds, tuple[Device, ...]]:
    """Imports what sampling does, and compiles and runs a product of small matrices."""
    clock = [time.perf_counter()]
    importlib.import_module("calojax.cli.sample")
    import jax
    import jax.numpy as jnp

    clock.append(time.perf_counter())
    found = jax.devices()
    x = jnp.ones((512, 512))
    clock.append(time.perf_counter())
    product = jax.jit(lambda x: x @ x).lower(x).compile()
    clock.append(time.perf_counter())
    product(x).block_until_ready()
    before = time.perf_counter()
    product(x).block_until_ready()
    run = time.perf_counter() - before
    memory = [(device.memory_stats() or {}).get("bytes_limit") for device in found]
    devices = [Device(d.platform, d.device_kind, m) for d, m in zip(found, memory, strict=True)]
    return Seconds(clock[1] - clock[0], clock[3] - clock[2], run), tuple(devices)


def _driver() -> str:
    """Version of the NVIDIA driver, from the kernel or from nvidia-smi; "" without one."""
    try:
        text = pathlib.Path("/proc/driver/nvidia/version").read_text()
        found = re.search(r"Kernel Module\D*([\d.]+)", text)
        if found:
            return found[1]
    except OSError:
        pass
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    query = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.match(r"[\d.]+", answer.stdout)
    return found[0] if found else ""


def _folders() -> Iterator[pathlib.Path]:
    """Where calojax writes: the working folder, and that of caches if it is known."""
    yield pathlib.Path.cwd()
    with contextlib.suppress(CalojaxError):
        yield default_folder()


def _free(folder: pathlib.Path) -> int:
    """Bytes free on the disk where a folder is, or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _size(folder: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
