"""The example in examples/geant4: showers along tracks, and the job if geant4_pybind is there."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import types

import comparison
import h5py
import numpy as np
import pytest
import tracks
from tracks import Electrons

import calojax
from calojax.api import TrainedModel
from calojax.checkpoint import Checkpoints, Progress
from calojax.io import ShowerArrays

JOB = pathlib.Path(tracks.__file__).with_name("job.py")
PROGRESS = Progress(1, "prior", 1, ("autoencoder", "energies", "prior"), 0, (1e3, 1e5))


@pytest.fixture(scope="module")
def generator(model, variables):
    # The seed and a size of test_generator.py, whose program is in the cache.
    return calojax.Generator(TrainedModel(model, variables, PROGRESS), seed=3, sizes=(4,))


def electrons(number: int, event: int) -> Electrons:
    """Electrons in all directions."""
    random = np.random.default_rng(event)
    position, direction = random.normal(size=(2, number, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return Electrons(np.full(number, event), np.geomspace(2e3, 9e4, number), position, direction)


def test_hits_of_a_tilted_track_are_where_geometry_puts_them():
    # In the plane of x and z; the axes across the track are (0.8, 0, -0.6) and (0, 1, 0).
    one = Electrons(*map(np.array, ([7], [5e3], [[10.0, 20.0, 30.0]], [[0.6, 0.0, 0.8]])))
    local = calojax.Hits(
        shower=np.array([0, 0]),
        layer=np.array([2, 3]),
        alpha=np.array([1, 1]),
        r=np.array([0, 0]),
        x=np.array([0.0, 1.0]),
        y=np.array([0.0, 2.0]),
        z=np.array([5.0, 3.0]),
        energy=np.array([9.0, 4.0]),
    )
    calls = []
    hits = lambda energies, event: calls.append((energies.tolist(), event)) or local  # noqa: E731
    found = tracks.shower(types.SimpleNamespace(hits=hits), one)
    assert calls == [([5e3], 7)]
    np.testing.assert_allclose(found.position, [[13.0, 20.0, 34.0], [12.6, 22.0, 31.8]])
    np.testing.assert_array_equal(found.energy, local.energy)


def test_frames_are_rotations_also_along_the_axis():
    directions = np.concatenate([electrons(50, 0).direction, [[0, 0, 1], [0, 0, -1]]])
    turned = tracks.frames(directions)
    np.testing.assert_allclose(turned @ turned.swapaxes(1, 2), [np.eye(3)] * 52, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turned), 1)
    np.testing.assert_array_equal(turned[:, 2], directions)
    np.testing.assert_allclose(turned[50], np.eye(3))


def test_showers_of_events_along_their_tracks_are_those_of_the_generator(generator, tmp_path):
    events = [electrons(number, event) for number, event in ((3, 0), (1, 4), (2, 9))]
    made = [(one, tracks.shower(generator, one)) for one in events]
    every, hits = tracks.join(made)
    expected = np.concatenate([generator(one.energy, event=one.event[0]) for one in events])
    np.testing.assert_array_equal(tracks.voxels(generator.detector, every, hits), expected)
    np.testing.assert_allclose(
        np.bincount(hits.electron, hits.energy), expected.sum(axis=1), rtol=1e-5
    )
    # The same event alone has the same hits.
    again = tracks.shower(generator, events[2])
    np.testing.assert_array_equal(again.position, made[2][1].position)
    tracks.write(tmp_path / "hits.hdf5", every, hits)
    with h5py.File(tmp_path / "hits.hdf5") as file:
        np.testing.assert_array_equal(file["electrons/event"], [0, 0, 0, 4, 9, 9])
        np.testing.assert_array_equal(file["hits/position"], hits.position)
    assert "6 showers in 3 events" in tracks.summary(every, hits)


def test_the_comparison_is_drawn(generator, showers, tmp_path):
    full = ShowerArrays(generator.detector, showers.energies, showers.showers)
    one = electrons(4, 2)
    comparison.draw(tmp_path / "p.png", one, tracks.shower(generator, one), full)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


# It asks questions when it is imported, and has one run manager for a process.
@pytest.mark.skipif(
    importlib.util.find_spec("geant4_pybind") is None, reason="geant4_pybind is not installed"
)
def test_a_job_ends_electrons_at_the_face_and_is_reproducible(model, variables, tmp_path):
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(model, variables, {"moment": np.ones(3)}, PROGRESS)
    line = f"{JOB} --run {tmp_path}/run --energies 2GeV,90GeV --electrons 3 --field 2 --theta 70 75"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("G4", "GEANT4"))}

    def run(name: str, number: int) -> dict[str, np.ndarray]:
        subprocess.run(
            [sys.executable, *line.split(), "--out", tmp_path / name, "--num", str(number)],
            check=True,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        with h5py.File(tmp_path / name) as file:
            return {f"{group}/{key}": file[group][key][:] for group in file for key in file[group]}

    long, short = run("long.hdf5", 7), run("short.hdf5", 3)
    position, direction = long["electrons/position"], long["electrons/direction"]
    assert long["electrons/event"].tolist() == [0, 0, 0, 1, 1, 1, 2]
    # The last one first, as Geant4 takes them from its stack.
    np.testing.assert_allclose(short["electrons/energy"], [2e3, 9e4, 2e3])
    np.testing.assert_allclose(np.hypot(*position.T[:2]), 800)
    # A circle through the origin: half the chord over its radius p_T / (0.2998 GeV B), in meters.
    across = np.hypot(direction[:, 0], direction[:, 1])
    turn = (position[:, 0] * direction[:, 1] - position[:, 1] * direction[:, 0]) / (800 * across)
    momentum = long["electrons/energy"] / 1e3 * across
    np.testing.assert_allclose(turn, 0.4 * 0.2998 * 2 / momentum, rtol=2e-3)
    for key, values in short.items():
        np.testing.assert_array_equal(long[key][: len(values)], values)
