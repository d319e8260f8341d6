"""How many kernels does a GPU or TPU run for a batch, and in which loops? Without the device.

    python benchmarks/kernels.py examples/calovq-ds2 --batch 1 10000
    python benchmarks/kernels.py examples/calovq-ds2 --batch 1 10000 --device tpu

Compiles the model and its parts ahead of time and counts in the optimised program. For an H100 this
needs the wheels of ``calojax[cuda12]`` or ``cuda13`` (set JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1), for a
TPU v5e the wheel ``libtpu`` (set JAX_PLATFORMS=cpu and TPU_SKIP_MDS_QUERY=1), but no device.

At small batches kernels wait for each other, so ``kernels`` and the turns of ``loops`` are what to
look at: ``[turns, kernels of a turn]``, where turns are null if they depend on data. A TPU launches
a program once; its ``kernels`` are the fusions, copies and other operations on arrays. ``wide``
counts arrays of 64-bit numbers, and ``host`` exchanges with the host in mid-program. With
``--against ROWS`` the script fails where a program has become much larger than in earlier rows.
"""

import collections
import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any, Literal
from unittest import mock

import jax
import rows
import subjects
import tyro
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from rows import Row
from subjects import Subject

from calojax import distributed
from calojax.training import step

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
# Name of the kind of device for models -> arguments of JAX that describe one.
DEVICES: dict[str, dict[str, Any]] = {
    "gpu": dict(topology_name="h100", platform="cuda", topology="1x1x1", target_config=H100),
    "tpu": dict(topology_name="v5e:2x2", platform="tpu"),
}
# Instructions of an optimised program that launch nothing; nor does the end of another one.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
# Instructions that exchange data with the host, for example callbacks.
HOST = r'is_host_transfer=true|\b(?:in|out)feed\(|custom_call_target="[^"]*callback'


@dataclasses.dataclass(frozen=True)
class Benchmark(rows.Options):
    """Options.

    Attributes:
      models: presets, which have random weights, or folders of trained runs.
      batch: batch sizes.
      device: what to compile for, an NVIDIA H100 or a TPU v5e.
      training: also compile a training step of each stage, with the stage's batch size.
      against: file of earlier rows; more than twice as many kernels or as much temporary memory as
        in the last row of the same program is an error, as is any exchange with the host.
    """

    models: tyro.conf.Positional[tuple[str, ...]] = ("examples/calovq-ds2",)
    batch: tuple[int, ...] = (1, 10_000)
    device: Literal["gpu", "tpu"] = "gpu"
    training: bool = False
    against: pathlib.Path | None = None


class Program:
    """An optimised program: its computations by name, as lists of instructions.

    ``source`` is the program before, whose 64-bit numbers a TPU has as pairs of 32-bit ones.
    """

    def __init__(self, text: str, source: str = ""):
        self._text, self._source = text, source
        self._computations: dict[str, list[str]] = {}
        name = ""
        for line in text.splitlines():
            if found := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\) -> .*{$", line):
                name = "ENTRY" if found[1] else found[2]
                self._computations[name] = []
            elif name and " = " in line:
                self._computations[name].append(re.sub(r"/\*.*?\*/", "", line))

    def columns(self) -> Row:
        """Kernels, loops, calls of libraries, 64-bit arrays, and exchanges with the host."""
        loops: list[tuple[int | None, int]] = []
        kernels = self._kernels("ENTRY", loops)
        calls = collections.Counter(re.findall(r'custom_call_target="([^"]+)"', self._text))
        wide = len(re.findall(r"= [sf]64\[\d", self._source + self._text))
        host = len(re.findall(HOST, self._text))
        counts = {"kernels": kernels, "loops": loops, "calls": dict(calls)}
        return counts | {"wide": wide, "host": host}

    def _kernels(self, name: str, loops: list[tuple[int | None, int]]) -> int:
        """Kernels of a computation, whose loops are added to ``loops``.

        An unknown number of turns counts as one, and of branches the longest.
        """
        total = 0
        for line in self._computations[name]:
            operation = re.match(r"\s*(?:ROOT )?%?[\w.-]+ = (\(.*?\)|\S+) ([\w-]+)\(", line)
            result, kind = operation.groups() if operation else ("", "")
            called = dict(re.findall(r"(\w+)=%([\w.-]+)", line))
            if kind == "while":
                turns = self._turns(line, called)
                inner = self._kernels(called["body"], loops)
                loops.append((turns, inner))
                total += (1 if turns is None else turns) * inner
            elif kind == "conditional":
                several = re.search(r"branch_computations={([^}]*)}", line)
                branches = [called[key] for key in called if key.endswith("_computation")]
                branches += re.findall(r"%([\w.-]+)", several[1] if several else "")
                total += max(self._kernels(branch, loops) for branch in branches)
            elif kind == "call":
                total += self._kernels(called["to_apply"], loops)
            elif kind and kind not in FREE and not kind.endswith("-done"):
                # A TPU computes scalars, whose layout names a tile, beside the arrays.
                scalar = re.match(r"\w+\[\]{:T", result) and kind not in ("fusion", "reduce")
                total += not scalar
        return total

    def _turns(self, line: str, called: dict[str, str]) -> int | None:
        """Turns of a loop, or None if unknown.

        Programs of a TPU do not say it. There it is the constant with which the loop compares its
        first value, if each turn adds a constant to that: JAX counts from zero in steps of one.
        """
        if found := re.search(r"known_trip_count\D*(\d+)", line):
            return int(found[1])
        test, body = (
            "\n".join(self._computations.get(called[name], [])) for name in ("condition", "body")
        )
        end = re.search(r"ROOT .* compare\(%([\w.-]+), %([\w.-]+)\), direction=LT", test)
        last = re.search(r"ROOT .* tuple\(%([\w.-]+)", body)
        if end is None or last is None:
            return None
        first = re.search(rf"%{end[1]} = .* get-tuple-element\(.*index=0\b", test)
        counted = re.search(rf"%{last[1]} = s32\[\]{{:T\S* add\(%\S+, %constant", body)
        turns = re.search(rf"%{end[2]} = s32\[\]{{:T\S* constant\((\d+)\)", test)
        return int(turns[1]) if first and counted and turns else None


def programs(subject: Subject, b: Benchmark, device: Any) -> Iterator[tuple[int, str, Any, Any]]:
    """Batch size, name, jitted function and its arguments of each part of a model."""
    there = SingleDeviceSharding(device)
    for size in b.batch:
        inputs = subject.inputs(size)
        parts = {"whole": (subject.model.sample, inputs)} | subject.model.parts(*inputs)
        for part, (function, arguments) in parts.items():
            yield size, part, jax.jit(function, in_shardings=there, out_shardings=there), arguments
    for stage in subject.model.stages if b.training else ():
        size = stage.schedule.batch_size
        batch = {"energies": (size,), "showers": (size, subject.model.detector.n_voxels)}
        batch = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in batch.items()}
        if stage.prepare is not None:
            batch = jax.eval_shape(stage.prepare, subject.variables, batch)
        state = jax.eval_shape(lambda v, stage=stage: step.start(v, stage), subject.variables)
        train = step.make(subject.model, stage, 0, distributed.make_mesh([device]))
        yield size, f"training of {stage.name}", train, (state, batch)


# What identifies a program in rows.
PROGRAM = ("subject", "batch", "part", "compiled_for")


def regressions(row: Row, earlier: list[Row]) -> list[str]:
    """What has become much larger than in the last of earlier rows of the same program."""
    same = [x for x in earlier if all(x.get(key) == row[key] for key in PROGRAM)]
    where = ", ".join(str(row[key]) for key in PROGRAM)
    found = [f"{where}: exchanges data with the host in mid-program."] if row["host"] else []
    for key in ("kernels", "temporary_mib"):
        # A program that needs no MiB at all may double.
        before, now = (x.get(key, 0) for x in (same[-1] if same else row, row))
        if now > 2 * max(before, 1):
            found.append(f"{where}: {key} rose from {before:.4g} to {now:.4g}.")
    return found


def main(b: Benchmark) -> Iterator[Row]:
    """A row for each model, batch size and part."""
    earlier = [json.loads(line) for line in b.against.read_text().splitlines()] if b.against else []
    worse: list[str] = []
    b = b.small(models=("calovq-tiny",), batch=(2,))
    device = topologies.get_topology_desc(**DEVICES[b.device]).devices[0]

    def shapes(arrays: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays)

    for name in b.models:
        subject = subjects.find(name)
        for size, part, jitted, arguments in programs(subject, b, device):
            # What models choose by the kind of device is chosen as there.
            with mock.patch("jax.default_backend", return_value=b.device):
                lowered = jitted.lower(*shapes(arguments))
            program = lowered.compile()
            row = {"benchmark": "kernels", **subject.columns, "batch": size, "part": part}
            row |= {"compiled_for": device.device_kind}
            row |= Program(program.as_text() or "", lowered.as_text("hlo")).columns()
            if (memory := program.memory_analysis()) is not None:
                row["temporary_mib"] = memory.temp_size_in_bytes / 2**20
            worse += regressions(row, earlier) if b.against else []
            yield row
    if worse:
        raise SystemExit("error: " + " ".join(worse))


if __name__ == "__main__":
    rows.run(Benchmark, main, __doc__)
