"""``calojax doctor``: prints versions and devices, and warns of problems of the machine."""

import os
import re
from collections.abc import Iterator, Sequence

import jax

import calojax
from calojax.cli.process import kept_in
from calojax.errors import CalojaxError, warn
from calojax.io.writer import cores

# Oldest NVIDIA driver for each CUDA (NVIDIA's CUDA compatibility guide, minor versions).
_OLDEST_DRIVER = {"13": 580, "12": 525}


def doctor() -> None:
    """Prints versions and devices, and what is wrong with them; status 1 if JAX does not start."""
    print(f"calojax: {calojax.__version__}")
    failure = start_failure()
    if failure:
        raise CalojaxError(f"JAX does not start ({failure}); unset JAX_PLATFORMS, or {_remedy(0)}.")
    facts = (jax.print_environment_info(return_string=True) or "").strip()
    print(facts)
    driver = re.search(r"Driver Version: *(\d+)", facts)  # JAX quotes nvidia-smi.
    platforms = [device.platform for device in jax.local_devices()]
    print(f"CPU cores: {cores()}\ncompiled programs: {kept_in() or 'not kept'}")
    found = list(problems(platforms, int(driver[1]) if driver else 0, cores()))
    for sentence in found:
        warn(sentence)
    if not found:
        print("no problems found")


def problems(platforms: Sequence[str], driver: int, cores: int) -> Iterator[str]:
    """Problems of a machine, one sentence each with its remedy.

    It has devices of those ``platforms`` ("cpu", "gpu" or "tpu"), an NVIDIA driver of that major
    version, 0 without one, and so many CPU cores for this process.
    """
    gpus = platforms.count("gpu")
    if driver and not gpus:
        yield (
            f"There is an NVIDIA driver ({driver}), but JAX runs on the {platforms[0].upper()}; "
            "unset JAX_PLATFORMS and CUDA_VISIBLE_DEVICES if they hide the GPU, or "
            f"{_remedy(driver)}."
        )
    given = os.environ.get("SLURM_GPUS_ON_NODE", "")
    if given.isdigit() and int(given) != gpus:
        yield (
            f"SLURM gave this node {given} GPUs, but JAX finds {gpus}; start with srun, and check "
            "--gpus-per-task and CUDA_VISIBLE_DEVICES."
        )
    promised = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if promised.isdigit() and int(promised) > cores:
        yield (
            f"SLURM gave each task {promised} cores, but this process may use {cores}; add "
            "--cpus-per-task to srun."
        )
    if kept_in() is None:
        yield (
            "Compiled programs are not kept, so every start compiles them again; unset "
            "JAX_COMPILATION_CACHE_DIR, or set CALOJAX_CACHE to a folder of your own."
        )


def start_failure() -> str:
    """The reason why JAX does not start, or ""."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split()) or "none of the platforms in JAX_PLATFORMS is there"
    return ""


def _remedy(driver: int) -> str:
    """How to install a JAX that fits the NVIDIA driver; 0 for an unknown one."""
    for cuda, oldest in _OLDEST_DRIVER.items():
        if not driver or driver >= oldest:
            return f"pip install --upgrade 'calojax[cuda{cuda}]' (driver {oldest} or newer)"
    return f"update the NVIDIA driver to {min(_OLDEST_DRIVER.values())} or newer"
