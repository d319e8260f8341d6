"""Balanced batches: every shower at most once, and a hard bound on the hits of a run of showers."""

import numpy as np
import pytest

from calojax.training import balanced_batches


def realistic_hits(num=20_000, seed=0):
    """Hits as of electrons of 1 to 64 GeV in dataset 2: 76 to 1,719, in proportion to E^0.6."""
    generator = np.random.default_rng(seed)
    energy = np.exp(generator.uniform(0, np.log(64), num))
    return np.round(120 * energy**0.6 * generator.normal(1, 0.08, num).clip(0.6)).astype(np.int32)


def epochs(plan, num, seed=0):
    return [plan.epoch(np.random.default_rng([seed, i])) for i in range(num)]


@pytest.mark.parametrize(
    ("num", "size"), [(64, 16), (70, 16), (79, 16), (16, 16), (1000, 96), (31, 16), (5, 1)]
)
def test_an_epoch_has_each_shower_at_most_once_and_whole_batches(num, size):
    rows = np.random.default_rng(1).permutation(10 * num)[:num]
    plan = balanced_batches.balanced(rows, realistic_hits(num), size)
    assert plan.per_epoch == num // size
    for epoch in epochs(plan, 3):
        assert epoch.shape == (num // size, size)
        assert len(np.unique(epoch)) == epoch.size
        assert np.isin(epoch, rows).all()


def test_every_batch_has_one_shower_of_each_quantile():
    # Eighty showers with as many hits as their row says: quantile s holds rows 5 s .. 5 s + 4.
    plan = balanced_batches.balanced(np.arange(80)[::-1], np.arange(80)[::-1], 16)
    for epoch in epochs(plan, 4):
        np.testing.assert_array_equal(np.sort(epoch // 5, axis=1), np.tile(np.arange(16), (5, 1)))
        np.testing.assert_array_equal(epoch // 5, np.tile(balanced_batches.spread(16), (5, 1)))


def test_no_shower_is_left_out_for_good():
    plan = balanced_batches.balanced(np.arange(79), realistic_hits(79), 16)
    seen = np.bincount(np.concatenate([e.reshape(-1) for e in epochs(plan, 400)]), minlength=79)
    # Quantiles of five showers give four of them, those of four give all.
    assert np.sum(seen == 400) == 4
    others = seen[seen < 400]
    assert len(others) == 75
    assert (abs(others - 320) < 5 * 8).all()  # Five binomial standard deviations.


@pytest.mark.parametrize("size", [1, 2, 3, 16, 64, 96, 100, 256])
def test_runs_spread_over_all_quantiles(size):
    order = balanced_batches.spread(size)
    np.testing.assert_array_equal(np.sort(order), np.arange(size))
    for run in (2**k for k in range(1, 9)):
        if size & (size - 1) or size % run:
            continue
        # One quantile of each 1/run of the range, in every run.
        parts = np.sort(order.reshape(-1, run), axis=1) // (size // run)
        np.testing.assert_array_equal(parts, np.tile(np.arange(run), (size // run, 1)))


@pytest.mark.parametrize("num", [1000, 1003, 256])
@pytest.mark.parametrize(("size", "group"), [(256, 32), (96, 8), (64, 64), (4, 1)])
def test_the_bound_is_hard_and_reached(num, size, group):
    hits = realistic_hits(num)
    plan = balanced_batches.balanced(np.arange(num), hits, size)
    limit = balanced_batches.bound(hits, size, group)
    for epoch in epochs(plan, 20):
        assert hits[epoch].reshape(len(epoch), -1, group).sum(-1).max() <= limit
    highest = np.where(
        plan.larger[:, None], hits[plan.rows], hits[plan.rows[:, :-1]].max(1)[:, None]
    )
    assert highest.max(1).reshape(-1, group).sum(1).max() == limit


@pytest.mark.parametrize(
    ("size", "group", "most"), [(256, 32, 0.03), (64, 32, 0.05), (64, 16, 0.07), (96, 16, 0.06)]
)
def test_padding_is_small_on_a_realistic_distribution(size, group, most):
    hits = realistic_hits()
    padding = 1 - hits.mean() * group / balanced_batches.bound(hits, size, group)
    assert 0 < padding < most
    # Batches drawn at random need much more, even for the largest of a hundred only.
    generator = np.random.default_rng(0)
    drawn = generator.choice(hits, (100 * size // group, group)).sum(1).max()
    assert 1 - hits.mean() * group / drawn > 0.2


@pytest.mark.parametrize("hits", [np.zeros(100, int), np.full(100, 7), np.r_[np.zeros(99, int), 5]])
def test_showers_that_are_alike_are_no_special_case(hits):
    plan = balanced_batches.balanced(np.arange(100), hits, 32)
    assert len(np.unique(epochs(plan, 1)[0])) == 96
    assert balanced_batches.bound(hits, 32, 8) == {0: 0, 700: 56, 5: 5}[hits.sum()]
