"""A million damaged bytes: whatever a file holds, a command reads it, or says why not and stops."""

import contextlib
import io
import json
import pathlib
import re
import resource
import shutil
import types
from collections.abc import Iterator
from typing import NamedTuple

import forks
import numpy as np
import pytest

from calojax import checkpoint, cli, models
from calojax.checkpoint import Checkpoint, Checkpoints, Progress
from calojax.cli import train
from calojax.errors import CalojaxError
from calojax.evaluation import suite
from calojax.geometry import DETECTORS
from calojax.io import write_showers
from calojax.presets import PRESETS
from calojax.sampling import generation
from calojax.training import metrics

TINY, DS2 = DETECTORS["tiny"], DETECTORS["ds2"]
SECONDS, MEMORY = 300, 2**33
# What stands where it would be valid, or nearly, and means something else.
_WORDS = (b"null", b"-1", b"0", b"1e999", b"NaN", b'"x"', b"[]", b"{}", b"true", b"7" * 30, b"\xff")
_TOKEN = re.compile(rb'"[^"]*"|-?[0-9][0-9.eE+-]*')


def mutants(content: bytes, num: int) -> Iterator[bytes]:
    """Damaged copies: bits flipped, ends cut, blocks put in, zeroed or moved, words exchanged."""
    draw = np.random.default_rng([6, num])
    for _ in range(num):
        data = bytearray(content)
        for _ in range(draw.integers(1, 4)):
            where, other = draw.integers(len(data) + 1, size=2)
            length = draw.integers(1, 65)
            match draw.integers(6):
                case 0 if data:
                    for bit in draw.integers(8 * len(data), size=3):
                        data[bit // 8] ^= 1 << (bit % 8)
                case 1:
                    del data[where:]
                case 2:
                    data[where:where] = draw.bytes(length)
                case 3:
                    data[where : where + length] = bytes(len(data[where : where + length]))
                case 4:
                    data[where : where + length] = data[other : other + length]
                case 5 if tokens := list(_TOKEN.finditer(data)):
                    start, stop = tokens[draw.integers(len(tokens))].span()
                    data[start:stop] = _WORDS[draw.integers(len(_WORDS))]
        yield bytes(data)


class Case(NamedTuple):
    """A command and the file that it is given.

    Attributes:
      command: with ``{file}`` for the damaged file, ``{good}`` for showers and ``{out}`` for the
        folder that it writes to.
      suffix: of the file.
      num: how many damaged files.
    """

    command: str
    suffix: str
    num: int


EVALUATE = "evaluate {ds2} {ds2} --out {out}/e --metrics histograms"
CASES = {
    "check": Case("check {file}", ".hdf5", 60),
    "check sparse": Case("check {file}", ".sparse.hdf5", 60),
    "evaluate": Case("evaluate {file} {good} --out {out}/e --metrics histograms", ".hdf5", 60),
    "evaluate against": Case(
        "evaluate {good} {file} --out {out}/e --metrics histograms", ".sparse.hdf5", 30
    ),
    "train": Case("train calovq-tiny --data {file} --cache {cache} --out {out}/r", ".hdf5", 12),
    "sample": Case("sample run --energies {file} --out {out}/s.hdf5", ".hdf5", 60),
    "check's geometry": Case("check {good} --geometry {file}", ".xml", 100),
    "simulate's geometry": Case(
        "simulate --geometry {file} --num 2 --energies 50GeV --out {out}/s.hdf5", ".xml", 100
    ),
    "published scores": Case(EVALUATE + " --against {file}", ".json", 60),
    "times": Case(EVALUATE + " --timing {file}", ".jsonl", 60),
}


SHOWERS = ((".hdf5", TINY, "dense"), (".sparse.hdf5", TINY, "sparse"), (".ds2.hdf5", DS2, "dense"))
SUFFIXES = (".hdf5", ".sparse.hdf5", ".ds2.hdf5", ".xml", ".json", ".jsonl")


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, pathlib.Path]:
    """Files without fault, by suffix; those of dataset 2 have published scores."""
    folder = tmp_path_factory.mktemp("good")
    draw = np.random.default_rng(0)
    files = {name: folder / f"good{name}" for name in SUFFIXES}
    for name, detector, layout in SHOWERS:
        showers = draw.exponential(20, (6, detector.n_voxels)).astype(np.float32)
        origin = {"seed": 1}
        write_showers(files[name], detector, np.full(6, 5e4), [showers], origin, layout=layout)
    layers = [
        f'<Layer id="{i}" r_edges="0,4.65,13.95" n_bin_alpha="4" thickness="13.6"/>'
        for i in range(10)
    ]
    text = '<Bins><Bin pid="11" name="electron" response="0.9" readout_threshold="0.015">'
    files[".xml"].write_text(text + "\n".join(layers) + "</Bin></Bins>")
    rows = [{"model": "GEANT4", "auc_low": 0.5}, {"model": "other", "fpd": 7.5}]
    files[".json"].write_text(json.dumps({"datasets": {"ds2": rows, "ds3": rows}}))
    line = {"part": "whole", "platform": "cpu", "batch": 100, "ms_per_shower": 0.5}
    files[".jsonl"].write_text("".join(json.dumps(line | {"batch": b}) + "\n" for b in (1, 100)))
    return files


@pytest.mark.parametrize("name", CASES)
def test_damaged_files(name, good, tmp_path):
    process = forks.start(_try_all, CASES[name], good, tmp_path)
    process.join(SECONDS)
    # HDF5 has been sent round in circles.
    lasting = process.exitcode is None
    process.kill()
    assert not lasting
    assert process.exitcode == 0, (tmp_path / "output").read_text()[-3000:]


def test_there_are_a_million_damaged_bytes(good):
    num = {suffix: [0, 0] for suffix in good}
    for case in CASES.values():
        for data in mutants(good[case.suffix].read_bytes(), case.num):
            num[case.suffix][0] += 1
            num[case.suffix][1] += len(data)
    assert sum(size for _, size in num.values()) > 1_000_000
    assert all(num[suffix][0] >= 50 for suffix in (".hdf5", ".xml", ".json", ".jsonl"))


def test_damaged_descriptions_of_checkpoints(model, variables, tmp_path):
    done = ("autoencoder", "energies", "prior")
    with Checkpoints(tmp_path) as checkpoints:
        progress = Progress(1, "prior", 1, done, 0, (1e3, 1e5))
        checkpoints.save(model, variables, {"moment": np.ones(3)}, progress)
    (path,) = (tmp_path / "checkpoints" / "1" / "description").glob("metadata*")
    refused = []
    for content in mutants(path.read_bytes(), 60):
        path.write_bytes(content)
        try:
            checkpoint.load(tmp_path)
        except CalojaxError as error:
            refused.append(str(error))
    assert len(refused) > 40
    assert all(sentence.startswith(str(tmp_path)) for sentence in refused)


def test_damaged_metrics_of_a_run(tmp_path):
    lines = [{"stage": "prior", "step": step, "loss": 0.5} for step in range(1, 5)]
    good = "".join(json.dumps(line) + "\n" for line in lines).encode()
    path = tmp_path / "metrics.jsonl"
    for content in mutants(good, 300):
        path.write_bytes(content)
        for record in metrics.read(path):
            assert isinstance(record["stage"], str)
            assert record["step"] >= 0


def _try_all(case: Case, good: dict[str, pathlib.Path], folder: pathlib.Path) -> None:
    """Runs the command on every damaged file; in a child, since HDF5 may bring it down.

    Ends with status 0 if each time the command came to its end, or said a sentence and left
    nothing. Otherwise the file that it was given stays where it is.
    """
    forks.redirect(folder / "output")
    _stub()
    # What a damaged file announces may be more than there is memory for.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    out, file = folder / "out", folder / f"damaged{case.suffix}"
    names = {
        "file": file,
        "good": good[".hdf5"],
        "ds2": good[".ds2.hdf5"],
        "cache": folder / "cache",
    }
    arguments = case.command.format(out=out, **names).split()
    for content in mutants(good[case.suffix].read_bytes(), case.num):
        file.write_bytes(content)
        out.mkdir()
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            try:
                cli.main(arguments)
            except SystemExit as stop:
                _judge(arguments, stop.code, errors.getvalue(), out)
        shutil.rmtree(out)


def _judge(arguments: list[str], status: int, errors: str, out: pathlib.Path) -> None:
    """What a command that refuses a file owes its user."""
    assert status == 1
    assert not [path for path in out.rglob("*") if path.is_file()]
    # `check` has findings instead, on the other stream.
    if arguments[0] != "check":
        assert errors.splitlines()[-1].startswith("error: "), errors


def _stub() -> None:
    """Takes the long work out of the commands: all that is left is what reads and writes files."""
    model = models.build(PRESETS["calovq-tiny"].model, TINY)
    progress = Progress(1, "prior", 1, ("autoencoder", "energies", "prior"), 0, (1e3, 1e5))

    def showers(detector, wanted):
        energies = wanted[:]
        yield energies, np.ones((len(energies), detector.n_voxels), np.float32)

    def measure(source):
        source.read()
        return types.SimpleNamespace(source=source, digest="")

    def scoring(*_):
        raise CalojaxError("All files were read.")

    checkpoint.run_folder = pathlib.Path
    checkpoint.load = lambda run: Checkpoint(model, {}, progress)
    generation.generate = lambda model, variables, energies, **_: showers(model.detector, energies)
    generation.simulate = lambda detector, energies, **_: showers(detector, energies)
    train.train = lambda *_, **__: None
    train._draw_losses = lambda run: None
    suite.measure, suite.scoring = measure, scoring
