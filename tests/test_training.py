"""Training: the same numbers whatever interrupts it and however many devices share it."""

import dataclasses
import json
import shutil
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import with_autoencoder

from calojax import checkpoint, files, models
from calojax.errors import CalojaxError
from calojax.models.base import Outcome
from calojax.sampling.generation import generate
from calojax.training import balanced_batches, batches, metrics, run, step
from calojax.training.loop import Interrupted
from calojax.training.run import METRICS_FILE, Options, train

OPTIONS = Options(log_every=3, validate_every=5, checkpoint_every=4, validation_fraction=0.2)


def assert_equal_trees(a, b):
    flat_a, flat_b = (jax.tree.leaves_with_path(tree) for tree in (a, b))
    assert [path for path, _ in flat_a] == [path for path, _ in flat_b]
    for (path, x), (_, y) in zip(flat_a, flat_b, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def copy_of(variables):
    """Variables that a step may be given for good: it takes its state's memory."""
    return jax.tree.map(np.array, jax.device_get(variables))


@pytest.fixture(scope="module")
def finished(model, showers, one_device, tmp_path_factory):
    """(folder, variables) of an uninterrupted run."""
    out = tmp_path_factory.mktemp("finished")
    return out, train(model, showers, out, OPTIONS, mesh=one_device)


def test_a_finished_run_says_so(finished, model):
    out, variables = finished
    found = checkpoint.load(out)
    assert found.model == model
    assert found.progress.done == ("autoencoder", "energies", "prior")
    assert found.progress.total == 24
    assert_equal_trees(found.variables, jax.device_get(variables))


def test_metrics_cover_every_stage(finished):
    records = metrics.read(finished[0] / METRICS_FILE)
    for stage in ("autoencoder", "energies", "prior"):
        steps = [r["step"] for r in records if r["stage"] == stage and "loss" in r]
        assert steps == sorted(set(steps))
        assert steps[-1] == 8
        validated = [r["step"] for r in records if r["stage"] == stage and "validation/loss" in r]
        assert validated == [5, 8]
    first = next(r for r in records if "loss" in r)
    assert {"perplexity", "live_codes", "showers_per_second", "reconstruction"} <= set(first)


def stop_after(monkeypatch, count):
    """Makes the ``count``-th step of the run send SIGTERM to this process."""
    original = step.make
    calls = {"n": 0}

    def make(*args):
        compiled = original(*args)

        def counted(*inputs):
            calls["n"] += 1
            if calls["n"] == count:
                signal.raise_signal(signal.SIGTERM)
            return compiled(*inputs)

        return counted

    monkeypatch.setattr(step, "make", make)


def test_resume_after_sigterm_equals_uninterrupted(
    finished, model, showers, one_device, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        stop_after(patch, 13)
        with pytest.raises(Interrupted, match="continue with --resume"):
            train(model, showers, tmp_path, OPTIONS, mesh=one_device)
    resumed = train(model, showers, tmp_path, OPTIONS, resume=True, mesh=one_device)
    assert_equal_trees(jax.device_get(resumed), jax.device_get(finished[1]))


def test_a_stop_between_two_steps_is_never_without_a_checkpoint(
    model, showers, one_device, tmp_path, monkeypatch
):
    looks = iter([False] * 5 + [True] * 5)
    monkeypatch.setattr(run.StopFlag, "__enter__", lambda self: lambda: next(looks))
    monkeypatch.setattr(run.StopFlag, "__exit__", lambda *_: None)
    with pytest.raises(Interrupted, match="after step 6 of 8"):
        train(model, showers, tmp_path, OPTIONS, mesh=one_device)
    with checkpoint.Checkpoints(tmp_path) as kept:
        assert kept.load().progress.step == 6


def test_resuming_a_finished_run_changes_nothing(finished, model, showers, one_device):
    out, variables = finished
    again = train(model, showers, out, OPTIONS, resume=True, mesh=one_device)
    assert_equal_trees(jax.device_get(again), jax.device_get(variables))


def test_a_run_is_not_overwritten_or_mixed(finished, model, showers, one_device):
    out, _ = finished
    with pytest.raises(CalojaxError, match="already holds a run"):
        train(model, showers, out, OPTIONS, mesh=one_device)
    other = with_autoencoder(model, beta=0.5)
    with pytest.raises(CalojaxError, match="other settings"):
        train(other, showers, out, OPTIONS, resume=True, mesh=one_device)
    seeded = dataclasses.replace(OPTIONS, seed=1)
    with pytest.raises(CalojaxError, match="has seed 0, not 1"):
        train(model, showers, out, seeded, resume=True, mesh=one_device)
    with pytest.raises(CalojaxError, match="no stage 'decoder'"):
        train(model, showers, out, OPTIONS, again=("decoder",), mesh=one_device)
    with pytest.raises(CalojaxError, match="either --resume or --stages"):
        train(model, showers, out, OPTIONS, again=("prior",), resume=True, mesh=one_device)


def test_a_stage_can_be_trained_again_with_other_settings(
    finished, model, showers, one_device, tmp_path
):
    out, before = finished
    shutil.copytree(out, tmp_path / "copy")
    prior = dataclasses.replace(model.config.prior, width=12)
    wider = models.build(dataclasses.replace(model.config, prior=prior), model.detector)
    after = train(wider, showers, tmp_path / "copy", OPTIONS, again=("prior",), mesh=one_device)
    for name in ("encoder", "decoder", "energies"):
        assert_equal_trees(
            jax.device_get(after["params"][name]), jax.device_get(before["params"][name])
        )
    assert after["params"]["prior"]["initial"]["kernel"].shape[1] == 12
    assert checkpoint.load(tmp_path / "copy").model == wider
    # The settings of a stage that is kept must not change.
    changed = with_autoencoder(wider, hidden=(16,))
    with pytest.raises(CalojaxError, match=r"'params/decoder.*' has shape"):
        train(changed, showers, tmp_path / "copy", OPTIONS, again=("energies",), mesh=one_device)


def test_one_device_equals_eight(model, showers, variables, batch, one_device, eight_devices):
    for stage in model.stages:
        results = []
        for mesh in (one_device, eight_devices):
            state = step.start(copy_of(variables), stage)
            train_step = step.make(model, stage, 0, mesh)
            losses = []
            for _ in range(3):
                state, values = train_step(state, batch)
                losses.append(float(values["loss"]))
            results.append((losses, jax.device_get(state.variables)))
        (one, variables_one), (eight, variables_eight) = results
        np.testing.assert_allclose(one, eight, rtol=2e-5)
        # Sums over the batch round differently; the codebook's counts are whole numbers.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
            variables_one,
            variables_eight,
        )


def test_checkpoints_move_between_numbers_of_devices(
    finished, model, showers, tmp_path, one_device, eight_devices
):
    shutil.copytree(finished[0], tmp_path / "run")
    for mesh in (eight_devices, one_device):
        # Of one device first, then of eight.
        found = checkpoint.load(tmp_path / "run")
        (batch,) = generate(model, found.variables, showers.energies[:16], mesh=mesh)
        assert batch[1].shape == (16, 120)
        # And training goes on there.
        again = train(model, showers, tmp_path / "run", OPTIONS, again=("prior",), mesh=mesh)
        assert_equal_trees(checkpoint.load(tmp_path / "run").variables, jax.device_get(again))


def test_steps_compile_once_and_move_nothing_to_the_host(model, showers, variables, one_device):
    stage = model.stages[0]
    train_step = step.make(model, stage, 0, one_device)
    sharding = jax.NamedSharding(one_device, jax.P("data"))
    state = step.start(copy_of(variables), stage)
    state = jax.device_put(state, jax.NamedSharding(one_device, jax.P()))
    hits = batches.count_hits(showers)
    stream = batches.stream(
        showers, np.arange(600), hits, sharding, batch_size=64, seed=0, stage="s", steps=range(6)
    )
    state, _ = train_step(state, next(stream))
    with jax.transfer_guard("disallow"):
        for batch in stream:
            state, _ = train_step(state, batch)
    assert train_step._cache_size() == 1


def test_loss_that_is_not_finite_names_its_step_and_keeps_the_checkpoint(
    model, showers, one_device, tmp_path, monkeypatch
):
    original = type(model).loss

    def loss(self, stage, variables, key, batch, *, training):
        value, outcome = original(self, stage, variables, key, batch, training=training)
        if stage != "energies":
            return value, outcome
        value = value + 0.0 * jax.numpy.log(-1.0)
        return value, Outcome(outcome.metrics | {"loss": value}, outcome.state)

    monkeypatch.setattr(type(model), "loss", loss)
    with pytest.raises(CalojaxError, match="'energies': the loss is not finite at step 1"):
        train(model, showers, tmp_path, OPTIONS, mesh=one_device)
    with checkpoint.Checkpoints(tmp_path) as kept:
        assert kept.load().progress.done == ("autoencoder",)


def test_a_last_update_that_spoils_the_model_is_no_success(
    model, showers, one_device, tmp_path, monkeypatch
):
    original = step.make

    def make(*args):
        compiled = original(*args)

        def spoiling(state, batch):
            state, values = compiled(state, batch)
            if int(state.step) == 8:
                spoil = jax.tree.map(lambda leaf: leaf * jnp.nan, state.variables["params"])
                state = state._replace(variables=state.variables | {"params": spoil})
            return state, values

        return spoiling

    monkeypatch.setattr(step, "make", make)
    with pytest.raises(CalojaxError, match=r"'params/.*' .* is not finite after step 8"):
        train(model, showers, tmp_path, OPTIONS, mesh=one_device)
    with checkpoint.Checkpoints(tmp_path) as kept:
        assert kept.load().progress.step == 4


def test_a_step_that_does_not_fit_names_the_flag(model, showers, one_device, tmp_path, monkeypatch):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(step, "make", lambda *_: full)
    with pytest.raises(
        CalojaxError, match=r"64 showers a step .*--autoencoder.schedule.batch-size"
    ):
        train(model, showers, tmp_path / "run", OPTIONS, mesh=one_device)
    assert not (tmp_path / "run").exists()


def test_two_trainings_do_not_share_a_folder(model, showers, one_device, tmp_path):
    with (
        files.locked(tmp_path),
        pytest.raises(CalojaxError, match="in use by"),
    ):
        train(model, showers, tmp_path, OPTIONS, mesh=one_device)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("learn", "message"),
    [
        (lambda showers: np.zeros_like(showers), "480 showers to train on have no hit"),
        (lambda showers: np.repeat(showers[:1], len(showers), 0), "all the same"),
    ],
)
def test_showers_without_anything_to_learn(learn, message, model, showers, one_device, tmp_path):
    dull = batches.Dataset(showers.energies, learn(showers.showers))
    with pytest.raises(CalojaxError, match=message):
        train(model, dull, tmp_path / "run", OPTIONS, mesh=one_device)
    assert not (tmp_path / "run").exists()


def test_networks_that_no_memory_holds_are_refused(model, showers, one_device, tmp_path):
    huge = with_autoencoder(model, hidden=(10**9,))
    with pytest.raises(
        CalojaxError, match=r"need .* GB to train, .* make .*'(en|de)coder' smaller"
    ):
        train(huge, showers, tmp_path / "run", OPTIONS, mesh=one_device)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_validation_fraction_is_a_fraction(fraction, model, showers, one_device, tmp_path):
    options = dataclasses.replace(OPTIONS, validation_fraction=fraction)
    with pytest.raises(CalojaxError, match="--validation-fraction must be between 0 and 1"):
        train(model, showers, tmp_path, options, mesh=one_device)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_follow_the_rule_of_all_commands(seed, model, showers, one_device, tmp_path):
    options = dataclasses.replace(OPTIONS, seed=seed)
    for refused in (
        lambda: train(model, showers, tmp_path, options, mesh=one_device),
        lambda: batches.split(100, 0.1, seed),
    ):
        with pytest.raises(CalojaxError, match="seed must be a whole number from 0"):
            refused()


@pytest.mark.parametrize("number", files.SIGNALS)
def test_a_first_signal_asks_to_stop_and_a_second_ends_at_once(number, monkeypatch, capfd):
    ended = []
    before = signal.signal(number, lambda *_: ended.append(number))
    monkeypatch.setattr(run.StopFlag, "ECHO", -1.0)
    try:
        with run.StopFlag() as stop:
            assert not stop()
            signal.raise_signal(number)
            assert stop()
            assert not ended
            assert "stopping after this step" in capfd.readouterr().err
            signal.raise_signal(number)
            assert ended == [number]
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with run.StopFlag() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_was_trained_on_is_noted_if_energies_are_few(model, showers, one_device, tmp_path):
    discrete = np.where(np.arange(600) % 2, 2e3, 5e4).astype(np.float32)
    seen = {}
    for name, energies in (("two", discrete), ("many", showers.energies)):
        out = tmp_path / name
        train(model, batches.Dataset(energies, showers.showers), out, OPTIONS, mesh=one_device)
        seen[name] = checkpoint.load(out).progress.energies
    assert seen == {"two": (2e3, 5e4), "many": ()}


def test_batches_that_devices_cannot_share_are_refused(model, showers, tmp_path, eight_devices):
    odd = with_autoencoder(
        model, schedule=dataclasses.replace(model.config.autoencoder.schedule, batch_size=60)
    )
    with pytest.raises(CalojaxError, match="choose a multiple of 8"):
        train(odd, showers, tmp_path, OPTIONS, mesh=eight_devices)


@pytest.mark.parametrize("name", ["log_every", "validate_every", "checkpoint_every"])
def test_intervals_of_no_steps_are_refused(name, model, showers, tmp_path, one_device):
    options = dataclasses.replace(OPTIONS, **{name: 0})
    with pytest.raises(CalojaxError, match=f"--{name.replace('_', '-')} must be at least 1, got 0"):
        train(model, showers, tmp_path, options, mesh=one_device)


@pytest.mark.parametrize("change", [{"steps": 0}, {"batch_size": 0}])
def test_stages_of_no_steps_are_refused(change, model, showers, tmp_path, one_device):
    schedule = dataclasses.replace(model.config.autoencoder.schedule, **change)
    empty = with_autoencoder(model, schedule=schedule)
    with pytest.raises(CalojaxError, match="at least 1 step and 1 shower a step"):
        train(empty, showers, tmp_path, OPTIONS, mesh=one_device)


def test_too_few_showers_are_refused(model, showers, tmp_path, one_device):
    few = batches.Dataset(showers.energies[:50], showers.showers[:50])
    with pytest.raises(CalojaxError, match="64 showers a step but there are only 40"):
        train(model, few, tmp_path, OPTIONS, mesh=one_device)


def test_an_epoch_visits_every_shower_once():
    cut = balanced_batches.cut(
        np.arange(100, 164), np.random.default_rng(0).integers(0, 99, 64), 16
    )
    epoch = np.concatenate([batches.rows(cut, 0, "s", step) for step in range(4)])
    np.testing.assert_array_equal(np.sort(epoch), np.arange(100, 164))
    following = np.concatenate([batches.rows(cut, 0, "s", step) for step in range(4, 8)])
    assert not np.array_equal(epoch, following)
    np.testing.assert_array_equal(batches.rows(cut, 0, "s", 2), epoch[32:48])
    assert not np.array_equal(batches.rows(cut, 1, "s", 0), epoch[:16])
    assert not np.array_equal(batches.rows(cut, 0, "t", 0), epoch[:16])


def test_batches_are_balanced_by_hits_on_any_number_of_devices(showers, one_device, eight_devices):
    hits = batches.count_hits(showers, size=77)
    np.testing.assert_array_equal(hits, np.count_nonzero(showers.showers > 0, axis=1))
    index = np.arange(0, 600, 2)

    def found(mesh):
        sharding = jax.NamedSharding(mesh, jax.P("data"))
        arguments = showers, index, hits, sharding
        training = batches.stream(*arguments, batch_size=64, seed=3, stage="s", steps=range(2, 7))
        validation = batches.in_order(*arguments, batch_size=64)
        return [np.asarray(b["showers"]) for stream in (training, validation) for b in stream]

    one, eight = found(one_device), found(eight_devices)
    assert len(one) == 5 + 300 // 64
    limit = balanced_batches.bound(hits[index], 64, 16)
    for batch, same in zip(one, eight, strict=True):
        np.testing.assert_array_equal(batch, same)
        assert (np.count_nonzero(batch.reshape(4, -1), axis=1) <= limit).all()
    seen = np.concatenate([batch[:, :].sum(1) for batch in one[5:]])
    assert len(np.unique(seen)) == len(seen)


@pytest.mark.parametrize(("num", "size"), [(600, 96), (96, 96), (95, 48), (20, 12), (1, 1)])
def test_too_large_batches_are_halved(num, size):
    assert batches.fitting(96, num) == size


def test_split_is_disjoint_and_reproducible():
    split = batches.split(1000, 0.1, seed=3)
    assert len(split.validation) == 100
    np.testing.assert_array_equal(
        np.sort(np.concatenate([split.training, split.validation])), np.arange(1000)
    )
    np.testing.assert_array_equal(batches.split(1000, 0.1, seed=3).validation, split.validation)
    with pytest.raises(CalojaxError, match="leaves nothing"):
        batches.split(5, 0.01, seed=0)


def test_batches_come_ahead_but_in_order(showers, one_device):
    threads = set()

    class Watched(np.ndarray):
        def __getitem__(self, item):
            threads.add(threading.current_thread().name)
            return super().__getitem__(item)

    watched = batches.Dataset(showers.energies, showers.showers.view(Watched))
    sharding = jax.NamedSharding(one_device, jax.P("data"))
    hits = batches.count_hits(showers)
    cut = balanced_batches.cut(np.arange(600), hits, 50)
    stream = batches.stream(
        watched, np.arange(600), hits, sharding, batch_size=50, seed=0, stage="s", steps=range(3)
    )
    for number, batch in enumerate(stream):
        expected = batches.rows(cut, 0, "s", number)
        np.testing.assert_array_equal(batch["showers"], showers.showers[expected])
    assert threading.main_thread().name not in threads


def test_metrics_beyond_the_checkpoint_are_dropped(tmp_path):
    path = tmp_path / METRICS_FILE
    path.write_text(json.dumps({"stage": "a", "step": 1, "loss": 1.0}) + '\n{"stage": "a", "st')
    records = metrics.read(path)
    assert records == [{"stage": "a", "step": 1, "loss": 1.0}]
    log = metrics.MetricsFile(path, keep=records)
    log.write("a", 2, {"loss": 0.5})
    log.close()
    assert [record["step"] for record in metrics.read(path)] == [1, 2]
    assert metrics.read(tmp_path / "none.jsonl") == []
