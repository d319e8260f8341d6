"""How many kernels does a GPU launch for a batch, and in which loops? Without a GPU.

    python benchmarks/kernels.py examples/calovq-ds2 --batch 1 10000

Compiles the model and its parts for an H100 ahead of time, which needs the wheels of
``calojax[cuda12]`` or ``cuda13`` but no device (set JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1), and counts
in the optimised program. At small batches kernels wait for each other, so ``kernels`` and the turns
of ``loops`` are what to look at: ``[turns, kernels of a turn]``, where turns are null if they
depend on data. ``wide`` counts arrays of 64-bit numbers.
"""

import collections
import dataclasses
import re
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import rows
import subjects
import tyro
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from rows import Row

# NVIDIA's data sheet of the H100 SXM, and its CUDA limits per block and multiprocessor.
H100 = """gpu_device_info {
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 cuda_compute_capability { major: 9 }
  memory_bandwidth: 3352320000000 device_memory_size: 84978434048 l2_cache_size: 52428800
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
} platform_name: "CUDA" device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 8 }"""
# Instructions of an optimised program that launch nothing.
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
    *("after-all", "fusion-done"),
}


@dataclasses.dataclass(frozen=True)
class Benchmark(rows.Options):
    """Options.

    Attributes:
      models: presets, which have random weights, or folders of trained runs.
      batch: batch sizes.
    """

    models: tyro.conf.Positional[tuple[str, ...]] = ("examples/calovq-ds2",)
    batch: tuple[int, ...] = (1, 10_000)


class Program:
    """An optimised program: its computations by name, as lists of instructions."""

    def __init__(self, text: str):
        self._text = text
        self._computations: dict[str, list[str]] = {}
        name = ""
        for line in text.splitlines():
            if found := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\) -> .*{$", line):
                name = "ENTRY" if found[1] else found[2]
                self._computations[name] = []
            elif name and " = " in line:
                self._computations[name].append(re.sub(r"/\*.*?\*/", "", line))

    def columns(self) -> Row:
        """Kernels, loops, calls of libraries, and arrays of 64-bit numbers."""
        loops: list[tuple[int | None, int]] = []
        kernels = self._kernels("ENTRY", loops)
        calls = collections.Counter(re.findall(r'custom_call_target="([^"]+)"', self._text))
        wide = len(re.findall(r"= [sf]64\[\d", self._text))
        return {"kernels": kernels, "loops": loops, "calls": dict(calls), "wide": wide}

    def _kernels(self, name: str, loops: list[tuple[int | None, int]]) -> int:
        """Kernels of a computation, whose loops are added to ``loops``.

        An unknown number of turns counts as one, and of branches the longest.
        """
        total = 0
        for line in self._computations[name]:
            operation = re.match(r"\s*(?:ROOT )?%?[\w.-]+ = (?:\(.*?\)|\S+) ([\w-]+)\(", line)
            kind = operation[1] if operation else ""
            called = dict(re.findall(r"(\w+)=%([\w.-]+)", line))
            if kind == "while":
                turns = re.search(r"known_trip_count\D*(\d+)", line)
                inner = self._kernels(called["body"], loops)
                loops.append((int(turns[1]) if turns else None, inner))
                total += (int(turns[1]) if turns else 1) * inner
            elif kind == "conditional":
                several = re.search(r"branch_computations={([^}]*)}", line)
                branches = [called[key] for key in called if key.endswith("_computation")]
                branches += re.findall(r"%([\w.-]+)", several[1] if several else "")
                total += max(self._kernels(branch, loops) for branch in branches)
            elif kind == "call":
                total += self._kernels(called["to_apply"], loops)
            elif kind and kind not in FREE:
                total += 1
        return total


def main(b: Benchmark) -> Iterator[Row]:
    """A row for each model, batch size and part."""
    b = b.small(models=("calovq-tiny",), batch=(2,))
    device = topologies.get_topology_desc(
        "h100", platform="cuda", topology="1x1x1", target_config=H100
    ).devices[0]
    there = SingleDeviceSharding(device)

    def shapes(arrays: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays)

    for name in b.models:
        subject = subjects.find(name)
        for size in b.batch:
            inputs = subject.inputs(size)
            parts = {"whole": (subject.model.sample, inputs)} | subject.model.parts(*inputs)
            for part, (function, arguments) in parts.items():
                jitted = jax.jit(function, in_shardings=there, out_shardings=there)
                # What models choose by the kind of device is chosen as on a GPU.
                with mock.patch("jax.default_backend", return_value="gpu"):
                    program = jitted.lower(*shapes(arguments)).compile()
                row = {"benchmark": "kernels", **subject.columns, "batch": size, "part": part}
                row |= {"compiled_for": device.device_kind}
                row |= Program(program.as_text() or "").columns()
                if (memory := program.memory_analysis()) is not None:
                    row["temporary_mib"] = memory.temp_size_in_bytes / 2**20
                yield row


if __name__ == "__main__":
    rows.run(Benchmark, main, __doc__)
