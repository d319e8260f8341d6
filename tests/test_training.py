"""Training: the same numbers whatever interrupts it and however many devices share it."""

import dataclasses
import functools
import json
import shutil
import signal
import sys
import threading
import unittest.mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import with_autoencoder
from two_stages import signal_at

from calojax import checkpoint, distributed, files, models
from calojax.errors import CalojaxError
from calojax.models.base import Schedule, Stage
from calojax.nn import quantizer
from calojax.sampling.generation import generate
from calojax.training import balanced_batches, batches, loop, metrics, step
from calojax.training.balanced_batches import balanced
from calojax.training.interruption import Interrupted, StopFlag
from calojax.training.run import METRICS_FILE, Options, train

assert_equal_trees = functools.partial(jax.tree.map, np.testing.assert_array_equal)
OPTIONS = Options(log_every=3, validate_every=5, checkpoint_every=4, validation_fraction=0.2)


def copy_of(variables):
    """Variables that a step may be given for good: it takes its state's memory."""
    return jax.tree.map(np.array, jax.device_get(variables))


def changed(two, **settings):
    return models.build(dataclasses.replace(two.config, **settings), two.detector)


@pytest.fixture(scope="module")
def finished(two, showers, one_device, tmp_path_factory):
    """(folder, variables) of an uninterrupted run."""
    out = tmp_path_factory.mktemp("finished")
    return out, train(two, showers, out, OPTIONS, mesh=one_device)


def test_a_finished_run_says_so(finished, two):
    out, variables = finished
    found = checkpoint.load(out)
    assert found.model == two
    assert found.progress.done == ("first", "second")
    assert found.progress.total == 16
    assert_equal_trees(found.variables, variables)


def test_metrics_cover_every_stage(finished):
    records = metrics.read(finished[0] / METRICS_FILE)
    for stage in ("first", "second"):
        steps = [r["step"] for r in records if r["stage"] == stage and "loss" in r]
        assert steps == sorted(set(steps))
        assert steps[-1] == 8
        validated = [r["step"] for r in records if r["stage"] == stage and "validation/loss" in r]
        assert validated == [5, 8]
    # Once all other stages are trained, showers are generated and judged.
    judged = [(r["stage"], r["step"]) for r in records if "validation/separation_e_total" in r]
    assert judged == [("second", 5), ("second", 8)]
    lines = [r for r in records if "loss" in r]
    assert {"gradient_norm", "showers_per_second"} <= set(lines[0])
    # The mean of the warm-up's steps; then cosine decay to zero.
    assert lines[0]["learning_rate"] == pytest.approx(1e-2 * (0 + 0.5 + 1) / 3)
    assert lines[-1]["learning_rate"] < 3e-3
    seconds = [r["seconds"] for r in records]
    assert 0 < seconds[0] <= seconds[-1]
    assert seconds == sorted(seconds)


def test_resume_after_sigterm_equals_uninterrupted(
    finished, two, showers, one_device, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(step, "make", signal_at(11, signal.SIGTERM))
        with pytest.raises(Interrupted, match="continue with --resume"):
            train(two, showers, tmp_path, OPTIONS, mesh=one_device)
    resumed = train(two, showers, tmp_path, OPTIONS, resume=True, mesh=one_device)
    assert_equal_trees(resumed, finished[1])


def test_the_model_has_the_average_of_the_weights():
    schedule = Schedule(steps=6, warmup=0, learning_rate=0.1, betas=(0.5, 0.9), average=0.3)
    weights = {"w": jnp.array([1.0, -2.0])}
    state = step.start({"params": weights}, Stage("s", ("w",), schedule)).optimizer
    moved = [weights["w"]]
    for count in range(5):
        gradient = {"w": jnp.array([0.5, -0.1]) * (-1) ** count}
        weights, state = step.update(schedule, jnp.int32(count), gradient, state, weights)
        moved.append(state.weights["w"])
    # At first the average forgets faster: decays of (1 + n) / (10 + n) up to 0.3.
    decays = np.array([0.0, 1 / 10, 2 / 11, 3 / 12, 0.3, 0.3])
    shares = (1 - decays) * np.append(np.cumprod(decays[:0:-1])[::-1], 1.0)
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(weights["w"], shares @ np.stack(moved), rtol=1e-5)
    assert np.abs(weights["w"] - moved[-1]).min() > 1e-3


def test_a_run_starts_from_the_weights_of_another(
    finished, two, showers, one_device, tmp_path, monkeypatch
):
    seen = []
    original = step.start
    monkeypatch.setattr(step, "start", lambda v, s: seen.append(copy_of(v)) or original(v, s))
    # Both stages again, with a vector of another length.
    wider = changed(two, width=4)
    train(wider, showers, tmp_path / "all", OPTIONS, initial=finished[0], mesh=one_device)
    assert_equal_trees(seen[0]["state"], finished[1]["state"])
    np.testing.assert_array_equal(seen[0]["params"]["mean"], finished[1]["params"]["mean"])
    assert seen[0]["params"]["vector"].shape == (4,)
    # The changed stage alone.
    seen.clear()
    options = {"initial": finished[0], "again": ("second",), "mesh": one_device}
    found = train(wider, showers, tmp_path / "second", OPTIONS, **options)
    assert len(seen) == 1
    np.testing.assert_array_equal(found["params"]["mean"], finished[1]["params"]["mean"])
    progress = checkpoint.load(tmp_path / "second").progress
    assert progress.done == ("first", "second")
    # The showers of both trainings count.
    assert len(progress.trained_on) == 2 * len(checkpoint.load(finished[0]).progress.trained_on)
    with pytest.raises(CalojaxError, match="already holds a run"):
        train(wider, showers, tmp_path / "second", OPTIONS, **options)


def test_a_run_that_starts_from_another_is_resumed(
    finished, two, showers, one_device, tmp_path, monkeypatch
):
    options = {"initial": finished[0], "again": ("second",), "mesh": one_device}
    whole = train(two, showers, tmp_path / "whole", OPTIONS, **options)
    with monkeypatch.context() as patch:
        patch.setattr(step, "make", signal_at(5, signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(two, showers, tmp_path / "stopped", OPTIONS, **options)
    resumed = train(two, showers, tmp_path / "stopped", OPTIONS, resume=True, **options)
    assert_equal_trees(resumed, whole)


def test_weights_that_do_not_fit_a_kept_stage_are_refused(finished, two, showers, tmp_path):
    with pytest.raises(CalojaxError, match="'state/average' does not fit stage 'first'"):
        train(changed(two, memory=2), showers, tmp_path / "run", OPTIONS, initial=finished[0],
              again=("second",))  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_stage_ends_with_its_best_variables():
    def at(value):
        variables = {"params": {"w": value, "other": 0.0}, "state": {"book": -value, "more": 0.0}}
        return jax.tree.map(jnp.float32, variables)

    stage = Stage("s", ("w",), Schedule(best=True), state=("book",))
    found = step.restored(at(4.0) | {"transforms": 1.0}, step.best_of(at(3.0), stage, 0.4))
    assert found == {
        "params": {"w": 3.0, "other": 0.0},
        "state": {"book": -3.0, "more": 0.0},
        "transforms": 1.0,
    }
    # Without a validation the last variables stay.
    assert step.restored(at(4.0), step.best_of(at(1.0), stage, np.inf)) == at(4.0)


def test_the_best_validation_decides(two, showers, one_device, tmp_path, monkeypatch):
    """Validations after steps 5 and 8 give 1 and 2, so the stage ends with the fifth step's."""
    seen, losses = {}, iter([3.0, 2.0, 1.0, 2.0])

    def validate(run, stage, inputs, compiled, variables):
        loss = next(losses)
        seen[loss] = copy_of(variables)["params"]["vector"]
        return {"loss": loss}

    monkeypatch.setattr(loop, "_validate", validate)
    found = train(two, showers, tmp_path, OPTIONS, mesh=one_device)
    np.testing.assert_array_equal(found["params"]["vector"], seen[1.0])
    np.testing.assert_array_equal(
        checkpoint.load(tmp_path).variables["params"]["vector"], seen[1.0]
    )


def test_a_stage_prepares_every_shower_once(model, variables, showers, two_devices):
    few = batches.Dataset(showers.energies[:70], showers.showers[:70])
    # The turns of a dense network's shower are all different codes, too many to compute ahead.
    assert model.stages[-1].prepare is None
    stage = dataclasses.replace(model.stages[-1], prepare=model.encoded)
    found = batches.prepared(stage, variables, few, two_devices)
    expected = jax.jit(model.encoded)(variables, few._asdict())
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_allclose(array, expected[name], rtol=1e-5)
    # Codes stay integers on the way to the devices.
    some = batches.put(found, np.arange(62, 70), distributed.sharded(two_devices))
    np.testing.assert_array_equal(some["codes"], found["codes"][62:])
    assert some["codes"].dtype == jnp.uint8


def test_a_stop_between_two_steps_is_never_without_a_checkpoint(
    two, showers, one_device, tmp_path, monkeypatch
):
    looks = iter([False] * 5 + [True] * 5)
    monkeypatch.setattr(StopFlag, "__enter__", lambda self: lambda: next(looks))
    monkeypatch.setattr(StopFlag, "__exit__", lambda *_: None)
    with pytest.raises(Interrupted, match="after step 6 of 8"):
        train(two, showers, tmp_path, OPTIONS, mesh=one_device)
    with checkpoint.Checkpoints(tmp_path) as kept:
        assert kept.load().progress.step == 6


def test_resuming_a_finished_run_changes_nothing(finished, two, showers, one_device):
    out, variables = finished
    again = train(two, showers, out, OPTIONS, resume=True, mesh=one_device)
    assert_equal_trees(again, variables)


def test_a_run_is_not_overwritten_or_mixed(finished, two, showers, one_device):
    out, _ = finished
    with pytest.raises(CalojaxError, match="already holds a run"):
        train(two, showers, out, OPTIONS, mesh=one_device)
    other = changed(two, scale=0.5)
    with pytest.raises(CalojaxError, match=r"other settings \(scale 1.0, not 0.5\)"):
        train(other, showers, out, OPTIONS, resume=True, mesh=one_device)
    seeded = dataclasses.replace(OPTIONS, seed=1)
    with pytest.raises(CalojaxError, match="has seed 0, not 1"):
        train(two, showers, out, seeded, resume=True, mesh=one_device)
    with pytest.raises(CalojaxError, match="no stage 'third'"):
        train(two, showers, out, OPTIONS, again=("third",), mesh=one_device)
    with pytest.raises(CalojaxError, match="either --resume or --stages"):
        train(two, showers, out, OPTIONS, again=("second",), resume=True, mesh=one_device)


def test_a_stage_can_be_trained_again_with_other_settings(
    finished, two, showers, one_device, tmp_path
):
    out, before = finished
    shutil.copytree(out, tmp_path / "copy")
    wider = changed(two, width=5)
    after = train(wider, showers, tmp_path / "copy", OPTIONS, again=("second",), mesh=one_device)
    assert_equal_trees(after["params"]["mean"], before["params"]["mean"])
    assert after["params"]["vector"].shape == (5,)
    assert checkpoint.load(tmp_path / "copy").model == wider
    # A stage that needs another one is trained again with it, and the settings of a stage that is
    # kept must not change.
    again = train(two, showers, tmp_path / "copy", OPTIONS, again=("first",), mesh=one_device)
    assert again["params"]["vector"].shape == (3,)
    other = changed(two, memory=2)
    with pytest.raises(CalojaxError, match=r"'state/average' has shape \(1, 120\)"):
        train(other, showers, tmp_path / "copy", OPTIONS, again=("second",), mesh=one_device)


def test_one_device_equals_two(two, variables_of_two, batch, one_device, two_devices):
    results = []
    for mesh in (one_device, two_devices):
        train_step = step.make(two, two.stages[0], 0, mesh)
        state = step.start(copy_of(variables_of_two), two.stages[0])
        losses = []
        for _ in range(3):
            state, values = train_step(state, batch)
            losses.append(float(values["loss"]))
        results.append((losses, jax.device_get(state.variables)))
    # Sums over the batch round differently.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), *results)


def test_a_codebook_averages_over_the_latents_of_all_devices(one_device, two_devices):
    latents = jax.random.normal(jax.random.key(0), (64, 3))
    averages = quantizer.ByAverages(8, 3, 0.25, 0.9, 0.0)
    book = averages.start(jax.random.key(1), latents)
    found = []
    for mesh in (one_device, two_devices):
        whole, parts = distributed.replicated(mesh), distributed.sharded(mesh)
        update = jax.jit(averages.update, in_shardings=(whole, parts, parts, whole))
        codes = averages.codes(book, latents)
        found.append(jax.device_get(update(book, latents, codes, jax.random.key(2))))
    # The counts are whole numbers before they are averaged.
    np.testing.assert_array_equal(found[0]["count"], found[1]["count"])
    np.testing.assert_allclose(found[0]["vectors"], found[1]["vectors"], rtol=1e-5)


def test_checkpoints_move_between_numbers_of_devices(
    finished, two, showers, tmp_path, one_device, two_devices
):
    shutil.copytree(finished[0], tmp_path / "run")
    for mesh in (two_devices, one_device):
        # The checkpoint is from one device first, then from two.
        found = checkpoint.load(tmp_path / "run")
        (made,) = generate(
            two, found.variables, showers.energies[:16], devices=list(mesh.devices.flat)
        )
        assert made[1].shape == (16, 120)
        again = train(two, showers, tmp_path / "run", OPTIONS, again=("second",), mesh=mesh)
        assert_equal_trees(checkpoint.load(tmp_path / "run").variables, again)


def stream_of(dataset, size, mesh, steps, seed=0):
    everything = np.arange(len(dataset.energies))
    plan = balanced(everything, batches.count_hits(dataset), size)
    sharding = distributed.sharded(mesh)
    return plan, batches.stream(dataset, plan, sharding, seed=seed, stage="s", steps=steps)


def test_steps_compile_once_and_move_nothing_to_the_host(
    two, showers, variables_of_two, one_device
):
    train_step = step.make(two, two.stages[0], 0, one_device)
    state = distributed.replicate(step.start(copy_of(variables_of_two), two.stages[0]), one_device)
    _, stream = stream_of(showers, 64, one_device, range(6))
    state, _ = train_step(state, next(stream))
    before = train_step._cache_size()
    with jax.transfer_guard("disallow"):
        for batch in stream:
            state, _ = train_step(state, batch)
    assert train_step._cache_size() == before


def test_loss_that_is_not_finite_names_its_step_and_keeps_the_checkpoint(
    two, showers, one_device, tmp_path
):
    broken = changed(two, second=dataclasses.replace(two.config.second, learning_rate=1e38))
    with pytest.raises(CalojaxError, match=r"'second': the loss is not finite at step \d"):
        train(broken, showers, tmp_path, OPTIONS, mesh=one_device)
    with checkpoint.Checkpoints(tmp_path) as kept:
        assert kept.load().progress.done == ("first",)


def test_a_last_update_that_spoils_the_model_is_no_success(
    two, showers, one_device, tmp_path, monkeypatch
):
    original = step.make

    def make(*args):
        compiled = original(*args)

        def spoiling(state, batch):
            state, values = compiled(state, batch)
            if int(state.step) == 8:
                spoilt = jax.tree.map(lambda leaf: leaf * jnp.nan, state.variables["params"])
                state = state._replace(variables=state.variables | {"params": spoilt})
            return state, values

        return spoiling

    monkeypatch.setattr(step, "make", make)
    with pytest.raises(CalojaxError, match=r"'params/.*' .* is not finite after step 8"):
        train(two, showers, tmp_path, OPTIONS, mesh=one_device)
    with checkpoint.Checkpoints(tmp_path) as kept:
        assert kept.load().progress.step == 4


def test_a_step_that_does_not_fit_names_the_flag(two, showers, one_device, tmp_path, monkeypatch):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(step, "make", lambda *_: full)
    with pytest.raises(CalojaxError, match=r"64 showers per step .*--first.schedule.batch-size"):
        train(two, showers, tmp_path / "run", OPTIONS, mesh=one_device)
    assert not (tmp_path / "run").exists()


def test_two_trainings_do_not_share_a_folder(two, showers, one_device, tmp_path):
    with files.locked(tmp_path), pytest.raises(CalojaxError, match="in use by"):
        train(two, showers, tmp_path, OPTIONS, mesh=one_device)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("learn", "message"),
    [
        (lambda showers: np.zeros_like(showers), "480 showers to train on have no hit"),
        (lambda showers: np.repeat(showers[:1], len(showers), 0), "all the same"),
    ],
)
def test_showers_without_anything_to_learn(learn, message, two, showers, one_device, tmp_path):
    dull = batches.Dataset(showers.energies, learn(showers.showers))
    with pytest.raises(CalojaxError, match=message):
        train(two, dull, tmp_path / "run", OPTIONS, mesh=one_device)
    assert not (tmp_path / "run").exists()


def test_networks_that_no_memory_holds_are_refused(model, showers, one_device, tmp_path):
    huge = with_autoencoder(model, hidden=(10**9,))
    with pytest.raises(
        CalojaxError, match=r"need .* GB to train, .* make .*'(en|de)coder' smaller"
    ):
        train(huge, showers, tmp_path / "run", OPTIONS, mesh=one_device)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(("validation_fraction", bad, "must be between 0 and 1") for bad in (0.0, 1.0, np.nan)),
        *((f"{name}_every", 0, "must be at least 1, got 0") for name in ("log", "checkpoint")),
        *(("seed", seed, "seed must be a whole number from 0") for seed in (-1, 2**32)),
    ],
)
def test_options_that_make_no_sense_are_refused(name, value, message, two, showers, tmp_path):
    options = dataclasses.replace(OPTIONS, **{name: value})
    with pytest.raises(CalojaxError, match=message):
        train(two, showers, tmp_path, options)


def test_tensorboard_is_written_if_asked_for(two, showers, one_device, tmp_path, monkeypatch):
    options = dataclasses.replace(OPTIONS, tensorboard=True)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(CalojaxError, match=r"--tensorboard needs tensorboardX; install"):
        train(two, showers, tmp_path, options, mesh=one_device)
    board = unittest.mock.MagicMock()
    monkeypatch.setitem(sys.modules, "tensorboardX", board)
    log = metrics.MetricsFile(tmp_path / "m.jsonl", keep=[], tensorboard=True)
    log.write("first", 3, {"loss": 1.0})
    log.close()
    board.SummaryWriter.assert_called_once_with(str(tmp_path / "tensorboard"))
    board.SummaryWriter().add_scalar.assert_called_once_with("first/loss", 1.0, 3)


@pytest.mark.parametrize("number", files.SIGNALS)
def test_a_first_signal_asks_to_stop_and_a_second_ends_at_once(number, monkeypatch, capfd):
    ended = []
    before = signal.signal(number, lambda *_: ended.append(number))
    monkeypatch.setattr(StopFlag, "ECHO", -1.0)
    try:
        with StopFlag() as stop:
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
        with StopFlag() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_energies_are_noted_if_they_are_few(finished, two, showers, one_device, tmp_path):
    discrete = np.where(np.arange(600) % 2, 2e3, 5e4).astype(np.float32)
    train(two, batches.Dataset(discrete, showers.showers), tmp_path, OPTIONS, mesh=one_device)
    assert checkpoint.load(tmp_path).progress.energies == (2e3, 5e4)
    assert checkpoint.load(finished[0]).progress.energies == ()


def test_batches_that_devices_cannot_share_are_refused(two, showers, tmp_path, two_devices):
    odd = changed(two, first=dataclasses.replace(two.config.first, batch_size=61))
    with pytest.raises(CalojaxError, match="choose a multiple of 2"):
        train(odd, showers, tmp_path, OPTIONS, mesh=two_devices)


def test_too_few_showers_are_refused(two, showers, tmp_path, one_device):
    few = batches.Dataset(showers.energies[:50], showers.showers[:50])
    with pytest.raises(CalojaxError, match="64 showers per step but there are only 40"):
        train(two, few, tmp_path, OPTIONS, mesh=one_device)


def test_an_epoch_visits_every_shower_once():
    plan = balanced(np.arange(100, 164), np.random.default_rng(0).integers(0, 99, 64), 16)

    def drawn(steps, seed=0, stage="s"):
        return np.concatenate(list(batches.rows(plan, seed, stage, steps)))

    both = drawn(range(8))
    epoch, following = both[:64], both[64:]
    for visited in (epoch, following):
        np.testing.assert_array_equal(np.sort(visited), np.arange(100, 164))
    assert not np.array_equal(epoch, following)
    # A training that resumes in the middle of an epoch goes on with the same batches.
    np.testing.assert_array_equal(drawn(range(2, 7)), both[32:112])
    for other in (drawn(range(4), seed=1), drawn(range(4), stage="t")):
        assert not np.array_equal(other, epoch)


def test_batches_are_balanced_by_hits_on_any_number_of_devices(showers, one_device, two_devices):
    hits = batches.count_hits(showers, size=77)
    np.testing.assert_array_equal(hits, np.count_nonzero(showers.showers > 0, axis=1))
    limit = balanced_batches.bound(hits, 64, 16)
    _, one = stream_of(showers, 64, one_device, range(2, 9), seed=3)
    _, two = stream_of(showers, 64, two_devices, range(2, 9), seed=3)
    for batch, same in zip(one, two, strict=True):
        np.testing.assert_array_equal(batch["showers"], same["showers"])
        found = np.asarray(batch["showers"]).reshape(4, -1)
        assert (np.count_nonzero(found, axis=1) <= limit).all()


@pytest.mark.parametrize(("num", "size"), [(600, 96), (96, 96), (95, 48), (20, 12), (1, 1)])
def test_too_large_batches_are_halved(num, size):
    assert batches.fitting(96, num) == size


def test_the_split_is_disjoint_and_reproducible():
    training, validation = batches.split(1000, 0.1, seed=3)
    assert len(validation) == 100
    np.testing.assert_array_equal(np.sort(np.concatenate([training, validation])), np.arange(1000))
    np.testing.assert_array_equal(batches.split(1000, 0.1, seed=3)[1], validation)
    with pytest.raises(CalojaxError, match="leaves nothing"):
        batches.split(5, 0.01, seed=0)


def test_batches_come_ahead_but_in_order(showers, one_device):
    threads = set()

    class Watched(np.ndarray):
        def __getitem__(self, item):
            threads.add(threading.current_thread().name)
            return super().__getitem__(item)

    plan, _ = stream_of(showers, 50, one_device, range(3))
    watched = batches.Dataset(showers.energies, showers.showers.view(Watched))
    sharding = distributed.sharded(one_device)
    stream = batches.stream(watched, plan, sharding, seed=0, stage="s", steps=range(3))
    for batch, rows in zip(stream, batches.rows(plan, 0, "s", range(3)), strict=True):
        np.testing.assert_array_equal(batch["showers"], showers.showers[rows])
    assert threading.main_thread().name not in threads


def test_metrics_beyond_the_checkpoint_are_dropped(tmp_path):
    path = tmp_path / METRICS_FILE
    record = {"stage": "a", "step": 1, "seconds": 50.0, "loss": 1.0}
    for damage in ('{"stage": "a", "st', "[]", '{"stage": "a", "step": -1}', "{}"):
        path.write_text(f"{json.dumps(record)}\n{damage}\n{json.dumps(record)}\n")
        assert metrics.read(path) == [record]
    log = metrics.MetricsFile(path, keep=[record], tensorboard=False)
    log.write("a", 2, {"loss": 0.5})
    log.close()
    assert [record["step"] for record in metrics.read(path)] == [1, 2]
    # The time of the part before goes on.
    assert metrics.read(path)[1]["seconds"] >= 50.0
    assert metrics.read(tmp_path / "none.jsonl") == []
