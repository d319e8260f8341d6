"""What `calojax doctor` says of machines that are not at hand, and where compiled programs go."""

import os
import pathlib
import pwd

import jax
import pytest

from calojax import files
from calojax.cli import compilation, doctor, main
from calojax.cli.doctor import GIB, Device, Facts, Seconds
from calojax.errors import CalojaxError

CPU = Device("cpu", "cpu", None)
H100 = Device("gpu", "NVIDIA H100", 60 * GIB)
HERE = pathlib.Path("/data")


def facts(**changes) -> Facts:
    """A machine with one GPU of which nothing is wrong."""
    sound = Facts(
        versions={"jaxlib": "0.10.2", "jax-cuda13-plugin": "0.10.2"},
        devices=(H100,),
        failure="",
        driver="580.65.06",
        environment={},
        cores=16,
        free={HERE: 100 * GIB},
        programs=HERE / "xla",
        programs_bytes=2**20,
        seconds=Seconds(2.0, 0.1, 1e-4),
    )
    return sound._replace(**changes)


def test_a_sound_machine_has_no_problems():
    assert doctor.problems(facts()) == []
    without = facts(versions={"jaxlib": "0.10.2"}, devices=(CPU,), driver="")
    assert doctor.problems(without) == []


@pytest.mark.parametrize(
    ("driver", "remedy"),
    [
        ("580.65.06", "pip install 'calojax[cuda13]'"),
        ("550.54.15", "pip install 'calojax[cuda12]'"),
        ("470.82.01", "update the NVIDIA driver 470.82.01"),
    ],
)
def test_a_gpu_that_jax_does_not_use_has_a_remedy_that_its_driver_can_run(driver, remedy):
    found = facts(versions={"jaxlib": "0.10.2"}, devices=(CPU,), driver=driver)
    (sentence,) = doctor.problems(found)
    assert "JAX runs on the cpu" in sentence
    assert remedy in sentence


def test_a_gpu_that_was_hidden_is_told_by_what():
    found = facts(devices=(CPU,), environment={"JAX_PLATFORMS": "cpu"})
    (sentence,) = doctor.problems(found)
    assert "JAX_PLATFORMS is 'cpu': unset it" in sentence


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"versions": {"jaxlib": "0.10.2", "jax-cuda13-plugin": "0.9.0"}}, "do not fit"),
        ({"driver": "550.54.15"}, "too old for jax-cuda13-plugin"),
        ({"devices": (H100, Device("gpu", "T4", 9 * GIB))}, "the GPUs differ"),
        ({"environment": {"JAX_ENABLE_X64": "1"}}, "JAX_ENABLE_X64 is on"),
        ({"free": {HERE: GIB // 2}}, "/data has 0.5 GiB left"),
        ({"programs": None}, "compiled programs are not kept"),
        (
            {"environment": {"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "4"}},
            "gave this node 4 GPUs and JAX sees 1",
        ),
        (
            {"environment": {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "32"}},
            "promised 32 cores a task and this process may use 16",
        ),
        ({"environment": {"SLURM_JOB_ID": "7"}, "cores": 1}, "one core for everything"),
    ],
)
def test_every_problem_is_one_sentence(changes, part):
    (sentence,) = doctor.problems(facts(**changes))
    assert part in sentence
    assert sentence.endswith(".")


def test_devices_of_a_kind_are_counted():
    told = dict(doctor.describe(facts(devices=(H100, H100))))
    assert told["devices"] == "2 x NVIDIA H100 (gpu), 60.0 GiB each"


def test_the_command_runs_here(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("CALOJAX_CACHE", str(tmp_path / "later"))
    main(["doctor"])
    text = capsys.readouterr().out
    assert "8 x cpu (cpu)" in text
    assert "a start takes" in text


def test_a_jax_that_does_not_start_is_one_sentence(capsys, monkeypatch):
    broken = facts(devices=(), failure="no backend", driver="", seconds=None)
    monkeypatch.setattr(doctor, "examine", lambda: broken)
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 1
    assert "error: JAX does not start (no backend)" in capsys.readouterr().err


# --- compiled programs ----------------------------------------------------------------------------


@pytest.fixture
def free_choice(monkeypatch, tmp_path):
    """Nobody has said where compiled programs go."""
    # Set first, so that what `keep_programs` sets is taken back after the test.
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("CALOJAX_CACHE", str(tmp_path))
    return tmp_path


def test_programs_are_kept_under_the_cache(free_choice):
    compilation.keep_programs()
    assert compilation.kept_in() == free_choice / "xla"
    assert list((free_choice / "xla").iterdir()) == []


def test_a_folder_given_to_jax_stays(free_choice, monkeypatch):
    for given in (str(free_choice / "elsewhere"), "gs://bucket/programs"):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given)
        compilation.keep_programs()
        assert os.environ["JAX_COMPILATION_CACHE_DIR"] == given


def test_programs_need_not_be_kept(free_choice, monkeypatch):
    monkeypatch.setenv("CALOJAX_COMPILATION_CACHE", "off")
    compilation.keep_programs()
    assert compilation.kept_in() is None
    monkeypatch.setenv("CALOJAX_COMPILATION_CACHE", "no")
    with pytest.raises(CalojaxError, match="is 'no'; it may only be off"):
        compilation.keep_programs()


def _file_in_the_way(cache):
    (cache / "file").touch()
    return cache / "file"


def _written_by_group(cache):
    (cache / "xla").mkdir()
    (cache / "xla").chmod(0o770)
    return cache


def _renamed_by_others(cache):
    (cache / "open").mkdir()
    (cache / "open").chmod(0o777)
    return cache / "open" / "mine"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_file_in_the_way, "cannot be written"),
        (_written_by_group, "other users may write to it"),
        (_renamed_by_others, "other users may write to it"),
    ],
)
@pytest.mark.parametrize("given", [False, True])
def test_programs_are_kept_only_where_nobody_else_writes(
    make, words, given, free_choice, monkeypatch, capsys
):
    cache = make(free_choice)
    monkeypatch.setenv("CALOJAX_CACHE", str(cache))
    if given:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache / "xla"))
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    compilation.keep_programs()
    assert compilation.kept_in() is None
    told = capsys.readouterr().err
    assert told.startswith("warning: ")
    assert words in told


def test_programs_of_another_user_are_not_run(free_choice, monkeypatch, capsys):
    compilation.keep_programs()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    compilation.keep_programs()
    assert compilation.kept_in() is None
    assert "belongs to another user" in capsys.readouterr().err


def test_folders_of_programs_are_private(free_choice):
    (free_choice / "tmp").mkdir()
    (free_choice / "tmp").chmod(0o1777)
    made = files.private_folder(free_choice / "tmp" / "mine" / "xla")
    assert [folder.stat().st_mode & 0o777 for folder in (made, made.parent)] == [0o700, 0o700]


def test_users_without_a_home_go_without(free_choice, monkeypatch, capsys):
    def nobody(number):
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("HOME", "CALOJAX_CACHE"):
        monkeypatch.delenv(name)
    compilation.keep_programs()
    assert "set CALOJAX_CACHE to a folder" in capsys.readouterr().err
    assert len(doctor.examine().free) == 1
