"""What do more devices give? Showers/s of training and of generation.

    python benchmarks/scaling.py calovq-ds2-mlp --devices 1 2 4 8

The work stays the same: the batch of a training step (of the first stage), and the showers that are
generated. ``ratio`` is the rate over that of the first row; ``same_bits`` says whether the showers
are equal to those of the first row to the last bit. On a CPU the devices share the cores, so the
figures show what sharing costs, not what devices gain.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
import rows
import stopwatch
import subjects
import tyro
from rows import Row
from training import Trainer

from calojax import distributed
from calojax.geometry import DETECTORS
from calojax.presets import PRESETS
from calojax.training import batches


@dataclasses.dataclass(frozen=True)
class Benchmark(rows.Options):
    """Options.

    Attributes:
      model: preset to train and sample, with random weights.
      devices: numbers of devices.
      batch: showers of a training step, over all devices.
      num: showers to generate.
      block: showers of a block; the devices take blocks in turn.
    """

    model: tyro.conf.Positional[str] = "calovq-ds2-mlp"
    devices: tuple[int, ...] = (1, 2, 4, 8)
    batch: int = 256
    num: int = 4096
    block: int = 256
    repeats: int = 5


def main(b: Benchmark) -> Iterator[Row]:
    """A row for each number of devices, for generation and for training."""
    b = b.small(model="calovq-tiny", devices=(1, 2), batch=32, num=64, block=16)
    # Too late if JAX has started; then there are as many devices as there are.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", max(b.devices))
    detector = DETECTORS[PRESETS[b.model].geometry]
    dataset = subjects.simulated(detector, b.batch)
    subject = subjects.untrained(b.model, dataset, b.batch)
    energies = np.asarray(subject.incident_energies(b.num))
    first: dict[str, float] = {}
    expected = None
    for count in b.devices:
        if count > jax.device_count():
            continue
        devices = jax.devices()[:count]
        mesh = distributed.make_mesh(devices)
        batch = batches.put(dataset, np.arange(b.batch), distributed.sharded(mesh))
        train = Trainer(subject, subject.model.stages[0], mesh, batch)

        def generate(devices=devices) -> np.ndarray:
            return subject.showers(energies, batch_size=b.block, devices=devices)

        showers = generate()
        expected = showers if expected is None else expected
        same = {"same_bits": bool(np.array_equal(showers, expected))}
        for part, call, size, more in (
            ("generation", generate, b.num, same),
            ("training", lambda train=train, batch=batch: train(batch), b.batch, {}),
        ):
            rate = size / stopwatch.repeat(call, repeats=b.repeats, seconds=b.seconds).median
            ratio = rate / first.setdefault(part, rate)
            row = {"benchmark": "scaling", "part": part, **subject.columns, "devices": count}
            yield row | {"showers_per_second": rate, "ratio": ratio} | more


if __name__ == "__main__":
    rows.run(Benchmark, main, __doc__)
