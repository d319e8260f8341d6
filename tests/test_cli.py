"""The command line as users meet it: the whole path, and one sentence for whatever goes wrong."""

import concurrent.futures
import errno
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import types

import h5py
import jax
import numpy as np
import pytest

import calojax as package
from calojax import checkpoint, distributed, report
from calojax.cli import COMMANDS, main
from calojax.cli import train as train_command
from calojax.io import open_showers, write_showers

TRAIN = (
    "train two --out {out} --data {data} --cache {cache} "
    "--checkpoint-every 3 --log-every 2 --first.steps 9 --second.steps 9"
)
pytestmark = pytest.mark.usefixtures("two_stages_known")
# One size of blocks, so that one compiled program serves all tests.
SAMPLE = "sample {run} --batch 20 --out {out} "
PARTS = SAMPLE + "--num 50 --part-size 20 "


def calojax(line: str, **names) -> int:
    """Runs a command in this process; its exit status."""
    try:
        main(line.format(**names).split())
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture(scope="module", autouse=True)
def one_device_only(one_device):
    """Programs are compiled for one device only."""
    devices = jax.local_devices
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda **which: devices(**which)[:1])
        patch.setattr(distributed, "make_mesh", lambda: one_device)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def data(folder):
    path = folder / "data.hdf5"
    assert calojax("simulate --geometry tiny --num 200 --seed 1 --out {path}", path=path) == 0
    return path


@pytest.fixture(scope="module")
def run(folder, data):
    out = folder / "run"
    assert calojax(TRAIN, out=out, data=data, cache=folder / "cache") == 0
    return out


@pytest.fixture(scope="module")
def sampled(folder, data, run):
    path = folder / "sampled.hdf5"
    assert calojax(SAMPLE + "--energies {data}", run=run, data=data, out=path) == 0
    return path


@pytest.fixture(scope="module")
def in_parts(folder, run):
    out = folder / "parts"
    assert calojax(PARTS, run=run, out=out) == 0
    return out


def bytes_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_run_leaves_metrics_pictures_and_a_checkpoint(run):
    assert (run / "loss.png").stat().st_size > 5000
    assert len((run / "metrics.jsonl").read_text().splitlines()) > 8
    assert checkpoint.load(run).progress.total == 18
    assert checkpoint.load(run / "checkpoints").progress.total == 18


def test_a_run_is_continued_from_any_folder_without_its_arguments(
    run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    before = checkpoint.load(run).progress
    assert calojax("train --resume --out={run}", run=run) == 0
    assert checkpoint.load(run).progress == before
    assert calojax("train --resume --out {run} --width 48", run=run) == 1
    assert "other settings (width 3, not 48)" in capsys.readouterr().err
    assert calojax("train --resume --out {run}", run=tmp_path) == 1
    assert "name preset, data and settings" in capsys.readouterr().err


def test_nothing_is_written_to_another_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for line in (
        "train calovq-tiny --data in.hdf5 --out gs://bucket/run",
        "sample runs/a --num 1 --out=s3://bucket/x.hdf5",
        "evaluate a.hdf5 b.hdf5 --out file:///tmp/e",
    ):
        assert calojax(line) == 1
        assert "is not on this machine" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_samples_are_challenge_files_with_provenance(sampled, data):
    with h5py.File(sampled) as file, h5py.File(data) as reference:
        assert file["showers"].shape == (200, 120)
        assert file["showers"].dtype == np.float32
        energies = file["incident_energies"][:]
        assert energies.shape == (200, 1)
        np.testing.assert_array_equal(energies, reference["incident_energies"][:])
    attributes = open_showers(sampled).attributes
    assert attributes["model"] == "two"
    assert attributes["geometry"] == "tiny"
    assert attributes["seed"] == 0
    assert attributes["checkpoint_step"] == 18
    assert "calojax_version" in attributes


def test_parts_are_numbered_and_complete(in_parts, run, folder):
    assert set(bytes_of(in_parts)) == {"manifest.json", *(f"part-0000{i}.hdf5" for i in range(3))}
    single = folder / "single.hdf5"
    assert calojax(SAMPLE + "--num 50", run=run, out=single) == 0
    together, alone = open_showers(in_parts), open_showers(single)
    np.testing.assert_array_equal(together.energies, alone.energies)
    np.testing.assert_array_equal(together.read(), alone.read())


def test_a_part_is_made_again_to_the_byte(in_parts, run, folder):
    before = bytes_of(in_parts)
    (in_parts / "part-00001.hdf5").unlink()
    (in_parts / "part-00000.hdf5.partial-1").touch()
    untouched = (in_parts / "part-00002.hdf5").stat().st_mtime_ns
    assert calojax(PARTS, run=run, out=in_parts) == 0
    (in_parts / "part-00000.hdf5.partial-1").unlink()
    assert bytes_of(in_parts) == before
    assert (in_parts / "part-00002.hdf5").stat().st_mtime_ns == untouched
    (in_parts / "part-00002.hdf5").unlink()
    assert calojax(PARTS, run=run, out=in_parts) == 0
    assert bytes_of(in_parts) == before


def test_processes_share_the_parts(in_parts, run, folder):
    out = folder / "shared"
    for index in (1, 0):
        line = PARTS + f"--processes 2 --process {index}"
        assert calojax(line, run=run, out=out) == 0
        made = {path.name for path in out.glob("*.hdf5")}
        assert made == {f"part-0000{i}.hdf5" for i in ((0, 1, 2) if index == 0 else (1,))}
    assert bytes_of(out) == bytes_of(in_parts)


def test_parts_of_other_settings_are_refused(in_parts, run, capsys):
    before = bytes_of(in_parts)
    for change, words in (
        ("--seed 1", "seed 0"),
        ("--layout sparse", "'dense'"),
        ("--energies 5GeV", "'5GeV'"),
    ):
        assert calojax(PARTS + change, run=run, out=in_parts) == 1
        assert words in capsys.readouterr().err
    assert bytes_of(in_parts) == before


def test_sparse_samples_are_the_same_showers(sampled, data, run, folder):
    path = folder / "sparse.hdf5"
    assert calojax(SAMPLE + "--energies {data} --layout sparse", run=run, data=data, out=path) == 0
    np.testing.assert_array_equal(open_showers(path).read(), open_showers(sampled).read())
    assert calojax("check {path}", path=path) == calojax("check {path}", path=sampled)


def test_evaluation_writes_scores_and_page(sampled, data, folder, capsys, monkeypatch):
    out = folder / "evaluation"
    show, before = report.screen, set()

    def screen(*arguments):
        before.update(path.name for path in out.iterdir())
        return show(*arguments)

    monkeypatch.setattr(report, "screen", screen)
    line = "evaluate {sampled} {data} --out {out} --metrics histograms correlations --no-pictures"
    assert calojax(line, sampled=sampled, data=data, out=out) == 0
    scores = json.loads((out / "metrics.json").read_text())["scores"]
    assert 0 <= scores["separation_e_total"] <= 1
    assert before == {"metrics.json", "report.html"}  # A screen that fails costs none.
    assert "sep E total" in capsys.readouterr().out


def test_runs_are_evaluated_without_a_file_between(run, data, folder):
    for option in ("run", "reconstruction"):
        out = folder / f"evaluated-{option}"
        line = "evaluate --{option} {run} {data} --out {out} --metrics histograms --no-pictures "
        line += "--energy-range 1GeV 20GeV"
        assert calojax(line, option=option, run=run, data=data, out=out) == 0
        content = json.loads((out / "metrics.json").read_text())
        scores, inside = content["scores"], int((open_showers(data).energies < 2e4).sum())
        assert content["showers"] == {"generated": inside, "reference": inside}
        assert content["settings"]["energy_range"] == [1e3, 2e4]
        assert {p.name for p in out.iterdir()} == {".lock", "metrics.json", "report.html"}
        if option == "reconstruction":
            # The model of two stages gives back what it gets.
            assert scores["separation_e_total"] < 1e-3


def test_an_interrupted_evaluation_goes_on(sampled, data, folder, capsys, monkeypatch):
    from calojax.evaluation import distances

    out = folder / "again"
    # The reference in two files.
    halves = [folder / "first.hdf5", folder / "second.hdf5"]
    source = open_showers(data)
    for path, (start, stop) in zip(halves, [(0, 20), (20, None)], strict=True):
        write_showers(
            path, source.detector, source.energies[start:stop], [source.read(start, stop)]
        )
    # FPD takes a second per batch.
    monkeypatch.setitem(distances.fpd.__kwdefaults__, "num_batches", 1)
    line = "evaluate {sampled} {first} {second} --out {out} --no-pictures --metrics fpd kpd"
    names = {"sampled": sampled, "first": halves[0], "second": halves[1], "out": out}

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(distances, "kpd", interrupt)
        with pytest.raises(KeyboardInterrupt):
            calojax(line, **names)
    first = json.loads((out / "metrics.json").read_text())["scores"]
    assert set(first) == {"fpd", "fpd_error"}

    with monkeypatch.context() as patch:
        patch.setattr(distances, "fpd", interrupt)  # It is not computed again,
        assert calojax(line, **names) == 0
        # nor lost where others are asked for.
        line = "evaluate {sampled} {data} --out {out} --no-pictures --metrics correlations"
        assert calojax(line, data=data, **names) == 0
    content = json.loads((out / "metrics.json").read_text())
    assert content["scores"]["fpd"] == first["fpd"]
    assert {"kpd", "correlation_layers"} <= set(content["scores"])
    assert content["settings"]["metrics"] == ["fpd", "kpd", "correlations"]
    capsys.readouterr()
    line = "evaluate {data} {data} --out {out} --no-pictures --metrics correlations"
    assert calojax(line, data=data, out=out) == 0
    assert "the evaluation of sampled in it is replaced" in capsys.readouterr().err
    assert "fpd" not in json.loads((out / "metrics.json").read_text())["scores"]


def test_several_models_share_a_report(sampled, data, folder, capsys):
    other, out = folder / "other.hdf5", folder / "several"
    shutil.copy(sampled, other)
    line = "evaluate {sampled} {other} {data} --out {out} --metrics correlations --floor"
    names = {"sampled": sampled, "other": other, "data": data, "out": out}
    assert calojax(line, **names) == 1
    assert "give a --name for each" in capsys.readouterr().err
    assert calojax(line + " --name A A", **names) == 1
    assert "need different names" in capsys.readouterr().err
    line += " --name A B --reference-name Toy --no-pictures"
    assert calojax(line, **names) == 0
    first, second = json.loads((out / "metrics.json").read_text())["models"]
    assert (first["name"], second["name"]) == ("A", "B")
    assert first["scores"] == second["scores"]
    assert first["floor"] == second["floor"]
    assert re.search(r"^Score +A +B +Toy floor +What it is$", capsys.readouterr().out, re.M)
    assert "A and B against Toy" in (out / "report.html").read_text()
    # One of them again: what is known of it is used, and the other's report is gone.
    line = "evaluate {other} {data} --out {out} --metrics histograms --no-pictures"
    assert calojax(line, **names) == 0
    assert "replaced" not in capsys.readouterr().err
    assert json.loads((out / "metrics.json").read_text())["name"] == "other"


def test_models_are_ranked_by_a_classifier_between_them(sampled, data, folder, capsys):
    rival, out = folder / "rival.hdf5", folder / "rivals"
    line = "simulate --geometry tiny --energies {data} --seed 9 --out {rival}"
    assert calojax(line, data=data, rival=rival) == 0
    line = "evaluate {sampled} {rival} {data} --name sampled rival --multiclass --out {out} "
    line += "--metrics correlations --quick --seeds 2 --no-pictures"
    assert calojax(line, sampled=sampled, data=data, rival=rival, out=out) == 0
    (score,) = json.loads((out / "metrics.json").read_text())["models"][0]["multiclass"]
    # The rival comes from the reference's own generator, the sample from an untrained network.
    assert score["log_posterior"]["rival"] > score["uniform"] > score["log_posterior"]["sampled"]
    assert "multi cls" in capsys.readouterr().out


def test_check_looks_into_all_parts_of_a_folder(in_parts, folder, capsys):
    calojax("check {out}", out=in_parts)
    assert f"{in_parts}: 3 parts with 50 showers" in capsys.readouterr().out
    broken = folder / "broken-parts"
    shutil.copytree(in_parts, broken)
    last = broken / "part-00002.hdf5"
    last.write_bytes(last.read_bytes()[:1000])
    assert calojax("check {out}", out=broken) == 1
    told = capsys.readouterr().out
    assert str(last) in told
    assert "1 parts cannot be used" in told
    last.unlink()
    assert calojax("check {out}", out=broken) == 1
    assert "1 of 3 parts are missing" in capsys.readouterr().err


def test_help_of_every_command(capsys):
    assert calojax("--help") == 0
    overview = capsys.readouterr().out
    for name in COMMANDS:
        assert name in overview
        assert calojax(f"{name} --help") == 0
        assert f"usage: calojax {name}" in capsys.readouterr().out
    assert calojax("train calovq-tiny --help") == 0
    assert "MeV" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("smaple x", "no command 'smaple'; the nearest: sample, simulate.\nSee calojax --help"),
        ("train calovq-ds x", "no preset 'calovq-ds'; the nearest: calovq-ds3, calovq-ds2, "),
        ("train --data x --out y", "A preset must come before --data.\nSee calojax train --help"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_right_ones(line, answer, capsys):
    assert calojax(line) == 2
    told = capsys.readouterr().err
    assert re.match(f"error: .*{answer}", told)
    assert len(told.splitlines()) == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train calovq-tiny --data x --out y --autoencoder.hiden 3", "--autoencoder.hidden"),
        ("train calovq-tiny --out y", "--data"),
    ],
)
def test_wrong_arguments_are_named(line, words, capsys):
    assert calojax(line) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sample {folder}/nothing --num 5 --out x.hdf5", "is not a run folder"),
        ("sample {run} --num 5 --out {folder}/no/where/x.hdf5", "cannot be written"),
        ("sample {run} --num 5 --batch 0 --out x.hdf5", "batch"),
        ("evaluate {data} --out {folder}/e", "got 1 files"),
        ("evaluate --run {run} {data} --out {folder}/e --timing {data}", "JSON lines"),
        (
            "evaluate {data} {data} {data} --metrics all --energy-range 1GeV 1.05GeV "
            "--out {folder}/e --multiclass --name a b",
            "A classifier needs 5 showers or more",
        ),
        ("evaluate {data} {data} --out {folder}/e --multiclass", "two or more generated samples"),
        ("train calovq-ds2-mlp --data {data} --out {folder}/r", "tiny"),
        ("train two --data {data} --out {data}/r", "cannot be written"),
        ("evaluate {data} {data} --out {data}/e", "cannot be written"),
    ],
)
def test_mistakes_get_one_sentence(line, words, run, data, folder, capsys):
    assert calojax(line, run=run, data=data, folder=folder) == 1
    captured = capsys.readouterr().err.strip().splitlines()
    assert captured[-1].startswith("error: ")
    assert words in captured[-1]
    assert not list(folder.rglob("*.partial*"))
    assert not (folder / "e").exists()


def test_training_on_other_units_needs_a_word(data, tmp_path, capsys, monkeypatch):
    path = tmp_path / "gev.hdf5"
    source = open_showers(data)
    write_showers(path, source.detector, source.energies / 1e3, [source.read() / 1e3])
    started = []
    monkeypatch.setattr(train_command, "train", lambda *_, **__: started.append(1))
    monkeypatch.setattr(train_command, "_draw_losses", lambda run: None)
    line = "train calovq-tiny --data {data} --out {out}/run --cache {out}/cache"
    assert calojax(line, data=path, out=tmp_path) == 1
    error = capsys.readouterr().err
    assert f"error: {path}: incident energies look like GeV: multiply them by 1,000." in error
    assert "voxels look like GeV" in error
    assert not started
    assert not (tmp_path / "run").exists()
    assert calojax(line + " --any-units", data=path, out=tmp_path) == 0
    assert "warning: " in capsys.readouterr().err
    assert calojax(line, data=data, out=tmp_path) == 0
    assert "warning: " not in capsys.readouterr().err
    assert len(started) == 2


@pytest.mark.parametrize(
    "line",
    [
        "simulate --geometry tiny --energies {data} --out {out}",
        "sample {run} --energies {data} --out {out}",
        "convert {data} --layout sparse --out {out}",
    ],
)
@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("data.hdf5", "is also an input"),
        ("link.hdf5", "is also an input"),
        ("theirs", "already exists; choose another --out, or replace it: --force"),
        ("pipe", "is not a regular file"),
        ("", "is a folder"),
    ],
)
def test_output_replaces_no_input_no_device_and_no_file_of_others(
    line, out, words, run, data, tmp_path, capsys
):
    shutil.copy(data, tmp_path / "data.hdf5")
    (tmp_path / "link.hdf5").symlink_to("data.hdf5")
    (tmp_path / "theirs").write_text("theirs")
    os.mkfifo(tmp_path / "pipe")
    names = {"run": run, "data": tmp_path / "data.hdf5", "out": tmp_path / out}
    for force in ("", " --force")[: 1 if out == "theirs" else 2]:
        assert calojax(line + force, **names) == 1
        assert words in capsys.readouterr().err
    assert (tmp_path / "data.hdf5").read_bytes() == data.read_bytes()
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert len(list(tmp_path.iterdir())) == 4


def test_parts_of_an_input_folder_are_not_replaced(in_parts, capsys):
    before = bytes_of(in_parts)
    line = "convert {parts} --layout dense --force --out {parts}/part-00001.hdf5"
    assert calojax(line, parts=in_parts) == 1
    assert "is also an input" in capsys.readouterr().err
    assert bytes_of(in_parts) == before


def test_a_file_is_replaced_when_asked(data, tmp_path):
    out = tmp_path / "out.hdf5"
    out.write_text("old")
    line = "convert {data} --layout dense --force --out {out}"
    assert calojax(line, data=data, out=out) == 0
    np.testing.assert_array_equal(open_showers(out).read(), open_showers(data).read())


# --- the machine ----------------------------------------------------------------------------------


def raising(error: Exception):
    """A module whose command fails."""

    def fail(arguments):
        raise error

    return types.SimpleNamespace(main=fail)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "does not fit in memory; use a smaller --batch"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "does not fit in memory"),
        (AssertionError(), "JAX does not start (no GPU)"),
        (RuntimeError("Unable to initialize backend"), "JAX does not start (no GPU)"),
        (PermissionError(errno.EACCES, "Permission denied", "x\x1b.xml"), r"x\x1b.xml: Permission"),
        (OSError(errno.ENOSPC, "No space left"), "No space left"),
    ],
)
def test_faults_of_the_machine_get_a_sentence(error, words, monkeypatch, capsys):
    def no_devices():
        raise RuntimeError("no GPU")

    monkeypatch.setattr(jax, "devices", no_devices)
    monkeypatch.setattr(importlib, "import_module", lambda name: raising(error))
    assert calojax("check x") == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("bug", [AssertionError("bug"), RuntimeError("bug"), OSError("bug")])
def test_bugs_keep_their_traceback(bug, monkeypatch):
    monkeypatch.setattr(importlib, "import_module", lambda name: raising(bug))
    with pytest.raises(type(bug), match="bug"):
        calojax("check x")


def test_commands_run_in_threads(data):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(calojax, "check {data}", data=data).result() == 0


@pytest.mark.parametrize(
    ("shell", "encoding"),
    [
        ("<&- >&- 2>&-", "utf-8"),
        (">/dev/full 2>/dev/full", "utf-8"),
        ("2>&1 | true", "utf-8"),
        ("", "ascii"),
    ],
)
def test_the_screen_never_decides_what_comes_of_work(shell, encoding, data, tmp_path):
    out = os.fsencode(tmp_path) + b"/\xe4\xc3\xa4.hdf5"  # The first letter is not UTF-8.
    line = [os.fsencode(sys.executable), b"-m calojax convert", os.fsencode(data)]
    line += [b"--layout sparse --out", out, shell.encode()]
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", b" ".join(line)],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Error" not in done.stderr
    if not shell:
        assert b"\\udce4" in done.stdout
    assert os.listdir(os.fsencode(tmp_path)) == [os.path.basename(out)]
    assert len(open_showers(os.fsdecode(out))) == 200


def test_the_module_is_the_command():
    line = [sys.executable, "-m", "calojax", "--version"]
    assert subprocess.check_output(line, text=True).strip() == package.__version__
