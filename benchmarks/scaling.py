"""What do more devices and more processes give? Showers/s of training and of generation.

    python benchmarks/scaling.py --preset calovq-ds2-mlp --devices 1 2 4 8 --processes 1 2

On a CPU the devices are forced: they share the cores, so that figures tell what sharing costs, not
what devices gain. Elsewhere they are the first ones there are. The work stays the same: the batch
of a training step (of the first stage), and the showers that are generated. ``ratio`` is the rate
over that of the first row, and ``same_bits`` says whether the showers are those of the first row to
the last bit. Every figure is measured by processes of their own. One JSON line a figure, on
standard output.
"""

import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import socket
import sys
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import jax
import numpy as np
import stopwatch
import subjects
import tyro
from environment import environment
from jax.experimental import multihost_utils
from subjects import Subject

from calojax import distributed, models
from calojax.geometry import DETECTORS
from calojax.io import shards
from calojax.presets import PRESETS
from calojax.sampling import generation
from calojax.training import batches, step
from calojax.training.batches import Dataset


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to time.

    Attributes:
      preset: what is trained and sampled, with random weights.
      devices: how many, over all processes together.
      processes: how many; they share the devices evenly.
      batch: showers of a training step, over all devices.
      num: showers that are generated.
      block: showers of a block; the devices take blocks in turn.
      repeats: timed repetitions of each figure.
      smoke: a small preset, once, to see that the benchmark runs.
    """

    preset: str = "calovq-ds2-mlp"
    devices: tuple[int, ...] = (1, 2, 4, 8)
    processes: tuple[int, ...] = (1, 2)
    batch: int = 256
    num: int = 4096
    block: int = 256
    repeats: int = 5
    smoke: bool = False


class Found(NamedTuple):
    """What a process has measured.

    Attributes:
      columns: of the rows, without rates.
      rates: showers/s of all processes together, by part.
      digests: of the showers that this process has generated, by the numbers of their blocks.
    """

    columns: dict[str, Any]
    rates: dict[str, float]
    digests: dict[int, str]


def training_rate(subject: Subject, dataset: Dataset, b: Benchmark) -> float:
    """Showers/s of steps of the first stage on a batch that is on the devices."""
    everything = distributed.make_mesh()
    stage = subject.model.stages[0]
    train = step.make(subject.model, stage, 0, everything)
    state = distributed.replicate(step.start(subject.variables, stage), everything)
    batch = batches.put(dataset, np.arange(b.batch), distributed.sharded(everything))

    def call() -> dict[str, jax.Array]:
        nonlocal state
        state, metrics = train(state, batch)
        return metrics

    return b.batch / stopwatch.repeat(call, repeats=b.repeats).median


def generated(subject: Subject, b: Benchmark) -> tuple[float, dict[int, str]]:
    """Showers/s on the host, until the last process has its share; and digests."""
    energies = np.asarray(subjects.incident(subject, b.num))
    own = shards.share(shards.split(b.num, b.block), jax.process_index(), jax.process_count())

    def showers() -> list[np.ndarray]:
        ranges = [part.showers for part in own]
        made = generation.generate(
            subject.model, subject.variables, energies, parts=ranges, batch_size=b.block
        )
        return [block for _, block in made]

    blocks = showers()
    times = []
    for _ in range(b.repeats):
        multihost_utils.sync_global_devices("begin")
        start = time.perf_counter()
        showers()
        multihost_utils.sync_global_devices("end")
        times.append(time.perf_counter() - start)
    digests = {
        part.number: hashlib.sha256(block.tobytes()).hexdigest()
        for part, block in zip(own, blocks, strict=True)
    }
    return b.num / float(np.median(times)), digests


def measure(b: Benchmark, group: distributed.Group, devices: int, link: Connection) -> None:
    """Sends what this process of a group has found; None if there are not as many devices."""
    # The library that connects CPUs talks on standard output, where rows go.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with distributed.joined(group):
        if jax.device_count() < devices:
            link.send(None)
            return
        detector = DETECTORS[PRESETS[b.preset].geometry]
        dataset = subjects.simulated(detector, b.batch)
        subject = subjects.untrained(b.preset, dataset, b.batch)
        columns = {
            "model": models.name_of(subject.model),
            "subject": b.preset,
            "geometry": detector.name,
            "processes": jax.process_count(),
        }
        rate, digests = generated(subject, b)
        rates = {"generation": rate, "training": training_rate(subject, dataset, b)}
        link.send(Found(columns | environment(), rates, digests))


def run(b: Benchmark, devices: int, num: int) -> Found | None:
    """What ``num`` processes find together; None if there are not as many devices."""
    each = devices // num
    flags = os.environ.get("XLA_FLAGS", "")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7").split(",")
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    started = []
    for process in range(num):
        several = distributed.Group(f"localhost:{port}", num, process)
        group = distributed.ALONE if num == 1 else several
        own = ",".join(visible[process * each : (process + 1) * each])
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={each}"
        os.environ["CUDA_VISIBLE_DEVICES"] = own
        ours, theirs = context.Pipe()
        child = context.Process(target=measure, args=(b, group, devices, theirs))
        child.start()
        theirs.close()
        started.append((child, ours))
    os.environ["XLA_FLAGS"] = flags
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible)
    try:
        found = [ours.recv() for _, ours in started]
    except EOFError:
        sys.exit(f"a process of {num} with {devices} devices failed; see above")
    for child, _ in started:
        child.join()
    if None in found:
        return None
    digests = {number: digest for one in found for number, digest in one.digests.items()}
    return found[0]._replace(digests=digests)


def main() -> None:
    """Prints a JSON line for every number of devices and processes, and part."""
    b = tyro.cli(Benchmark, description=__doc__)
    if b.smoke:
        small = {"preset": "calovq-tiny", "devices": (1, 2), "batch": 32, "num": 64, "block": 16}
        b = dataclasses.replace(b, **small, repeats=1)
    first = None
    for num, devices in itertools.product(b.processes, b.devices):
        found = None if devices % num else run(b, devices, num)
        if found is None:
            continue
        first = first or found
        for part, rate in found.rates.items():
            row = {"benchmark": "scaling", "part": part, "showers_per_second": float(f"{rate:.4g}")}
            row |= {"ratio": float(f"{rate / first.rates[part]:.4g}")}
            if part == "generation":
                row["same_bits"] = found.digests == first.digests
            print(json.dumps(row | found.columns), flush=True)


if __name__ == "__main__":
    main()
