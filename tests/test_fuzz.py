"""Damaged files: whatever one holds, it is read, or the reader says why not and stops."""

import contextlib
import json
import pathlib
import re
import resource
from collections.abc import Iterator

import forks
import numpy as np
import pytest

from calojax import checkpoint
from calojax.checkpoint import Checkpoints, Progress
from calojax.cli import evaluate
from calojax.errors import CalojaxError
from calojax.evaluation import scoreboard
from calojax.geometry import DETECTORS, find_detector
from calojax.io import open_showers, write_showers
from calojax.io.inspection import inspect
from calojax.sampling.incident_energies import read_energies
from calojax.training import metrics

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


def read_showers(path: pathlib.Path) -> None:
    """All that commands read of a shower file."""
    assert inspect(path).text()
    with contextlib.suppress(CalojaxError):
        read_energies(path)
    open_showers(path).read()


# What reads files of each name, and the number of damaged ones.
READERS = {
    ".hdf5": (read_showers, 200),
    ".sparse.hdf5": (read_showers, 100),
    ".xml": (lambda path: find_detector(str(path)).voxels, 200),
    ".json": (lambda path: scoreboard.rows("ds2", path), 60),
    ".jsonl": (evaluate._times, 60),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, bytes]:
    """Files without fault."""
    folder, tiny = tmp_path_factory.mktemp("good"), DETECTORS["tiny"]
    showers = np.random.default_rng(0).exponential(20, (6, 120)).astype(np.float32)
    found = {}
    for name, layout in ((".hdf5", "dense"), (".sparse.hdf5", "sparse")):
        path = folder / f"good{name}"
        write_showers(path, tiny, np.full(6, 5e4), [showers], {"seed": 1}, layout=layout)
        found[name] = path.read_bytes()
    layers = [
        f'<Layer id="{i}" r_edges="0,4.65,13.95" n_bin_alpha="4" thickness="13.6"/>'
        for i in range(10)
    ]
    text = '<Bins><Bin pid="11" name="electron" response="0.9" readout_threshold="0.015">'
    found[".xml"] = (text + "\n".join(layers) + "</Bin></Bins>").encode()
    rows = [{"model": "GEANT4", "auc_low": 0.5}, {"model": "other", "fpd": 7.5}]
    found[".json"] = json.dumps({"datasets": {"ds2": rows, "ds3": rows}}).encode()
    line = {"part": "whole", "platform": "cpu", "batch": 100, "ms_per_shower": 0.5}
    found[".jsonl"] = "".join(json.dumps(line | {"batch": b}) + "\n" for b in (1, 100)).encode()
    return found


@pytest.mark.parametrize("suffix", READERS)
def test_damaged_files(suffix, good, tmp_path):
    process = forks.start(_read_all, suffix, good[suffix], tmp_path)
    process.join(SECONDS)
    # HDF5 has been sent round in circles.
    lasting = process.exitcode is None
    process.kill()
    assert not lasting
    assert process.exitcode == 0, (tmp_path / "output").read_text()[-3000:]


def _read_all(suffix: str, content: bytes, folder: pathlib.Path) -> None:
    """Reads damaged files in a child, since HDF5 may bring it down; the last one stays there."""
    forks.redirect(folder / "output")
    # What a damaged file announces may be more than there is memory for.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    read, number = READERS[suffix]
    path = folder / f"damaged{suffix}"
    for damaged in mutants(content, number):
        path.write_bytes(damaged)
        with contextlib.suppress(CalojaxError):
            read(path)


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
