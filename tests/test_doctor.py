"""What `calojax doctor` says about other machines, and where compiled programs are kept."""

import os
import pathlib
import pwd

import jax
import pytest

from calojax import files
from calojax.cli import doctor, main, process


@pytest.fixture
def problems(monkeypatch):
    """The problems of a machine with a GPU and 16 cores, except for what is changed."""
    for name in ("SLURM_GPUS_ON_NODE", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "kept_in", lambda: pathlib.Path("/data"))

    def found(platforms=("gpu",), driver=580):
        return list(doctor.problems(platforms, driver, 16))

    return found


def test_a_sound_machine_has_no_problems(problems):
    assert not problems()
    assert not problems(platforms=("cpu",), driver=0)


def test_every_problem_is_one_sentence_with_a_remedy(problems, monkeypatch):
    def check(sentences, part):
        (sentence,) = sentences
        assert part in sentence
        assert "; " in sentence
        assert sentence.endswith(".")

    cpu = ("cpu",)
    check(problems(platforms=cpu), "JAX runs on the CPU")
    check(problems(platforms=cpu), "install --upgrade 'calojax[cuda13]'")
    check(problems(platforms=cpu, driver=550), "install --upgrade 'calojax[cuda12]'")
    check(problems(platforms=cpu, driver=470), "update the NVIDIA driver to 525 or newer")
    with monkeypatch.context() as patch:
        patch.setattr(doctor, "kept_in", lambda: None)
        check(problems(), "Compiled programs are not kept")
    with monkeypatch.context() as patch:
        patch.setenv("SLURM_GPUS_ON_NODE", "4")
        check(problems(), "gave this node 4 GPUs, but JAX finds 1")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "32")
    check(problems(), "32 cores, but this process may use 16")


def test_the_command_runs_here(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("CALOJAX_CACHE", str(tmp_path / "later"))
    main(["doctor"])
    text = capsys.readouterr().out
    assert f"jax:    {jax.__version__}" in text
    assert "cpu" in text
    assert f"CPU cores: {len(os.sched_getaffinity(0))}" in text


def test_a_jax_that_does_not_start_is_one_sentence(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "start_failure", lambda: "no backend")
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 1
    assert "error: JAX does not start (no backend); unset JAX_PLATFORMS" in capsys.readouterr().err


# --- compiled programs ----------------------------------------------------------------------------


@pytest.fixture
def free_choice(monkeypatch, tmp_path):
    """No variable says where compiled programs go."""
    # Set first, so that what `keep_programs` sets is taken back after the test.
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("CALOJAX_CACHE", str(tmp_path))
    return tmp_path


def test_programs_are_kept_under_the_cache(free_choice):
    process.keep_programs()
    assert process.kept_in() == free_choice / "xla"
    assert list((free_choice / "xla").iterdir()) == []


def test_a_folder_given_to_jax_stays(free_choice, monkeypatch):
    for given in (str(free_choice / "elsewhere"), "gs://bucket/programs"):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given)
        process.keep_programs()
        assert os.environ["JAX_COMPILATION_CACHE_DIR"] == given


def test_programs_need_not_be_kept(free_choice, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    process.keep_programs()
    assert process.kept_in() is None


def written_by_group(cache):
    (cache / "xla").mkdir()
    (cache / "xla").chmod(0o770)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda cache: (cache / "xla").touch(), "cannot be written"),
        (written_by_group, "other users may write to it"),
        (lambda cache: cache.chmod(0o777), "other users may write to it"),
    ],
)
@pytest.mark.parametrize("given", [False, True])
def test_programs_are_kept_only_where_nobody_else_writes(
    spoil, words, given, free_choice, monkeypatch, capsys
):
    spoil(free_choice)
    if given:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(free_choice / "xla"))
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    process.keep_programs()
    assert process.kept_in() is None
    told = capsys.readouterr().err
    assert told.startswith("warning: ")
    assert words in told


def test_programs_of_another_user_are_not_run(free_choice, monkeypatch, capsys):
    process.keep_programs()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    process.keep_programs()
    assert process.kept_in() is None
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
    process.keep_programs()
    assert "set CALOJAX_CACHE to a folder" in capsys.readouterr().err
    main(["doctor"])
