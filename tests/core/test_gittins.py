"""The index of a job whose length is known as a histogram."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core.programs.gittins import ranks_ms

EDGES = tuple(10.0 * 1.25**number for number in range(60))
counts_of = st.lists(st.floats(0, 1000), min_size=61, max_size=61).filter(lambda c: sum(c) > 1)


def histogram(lengths: list[float]) -> list[float]:
    counts = [0.0] * (len(EDGES) + 1)
    for length in lengths:
        counts[sum(edge < length for edge in EDGES)] += 1
    return counts


def ranked(lengths: list[float], ages: list[float] | None = None) -> tuple[float, ...]:
    """By jobs that ended at these lengths, and jobs that have come to these ages."""
    return ranks_ms(EDGES, histogram(lengths), histogram(ages or []))


def bin_at(ms: float) -> int:
    return sum(edge <= ms for edge in EDGES)


def test_jobs_that_end_at_a_constant_rate_rank_alike_at_any_age() -> None:
    """Exponential lengths of mean 5 s: what a job has had says nothing of what is left."""
    lengths = [-5000 * math.log(1 - (number + 0.5) / 3000) for number in range(3000)]
    ranks = ranked(lengths)
    for ms in (20, 100, 1000, 5000, 10_000):
        assert ranks[bin_at(ms)] == pytest.approx(5000, rel=0.15)


def test_jobs_of_one_length_rank_by_what_is_left() -> None:
    ranks = ranked([5000.0] * 3000)
    assert ranks[0] == pytest.approx(5000, rel=0.15)
    assert ranks[bin_at(3000)] == pytest.approx(2000, rel=0.25)
    assert all(later <= sooner for sooner, later in pairwise(ranks[: bin_at(4000)]))


def test_with_a_heavy_tail_the_young_rank_first() -> None:
    """Lengths that double with even odds: the expected cost of an end grows with age."""
    lengths = [10 / (1 - (number + 0.5) / 3000) for number in range(3000)]
    ranks = ranked(lengths)
    at = [ranks[bin_at(ms)] for ms in (20, 80, 320, 1280)]
    assert at == sorted(at)
    assert at[-1] > 20 * at[0]


def test_a_short_job_ranks_before_a_long_one() -> None:
    short = ranked([200.0, 300.0, 400.0] * 10)
    long = ranked([20_000.0, 30_000.0, 40_000.0] * 10)
    assert short[0] < long[0]


def test_a_mixture_ranks_a_survivor_as_one_of_the_long() -> None:
    ranks = ranked([100.0] * 500 + [50_000.0] * 500)
    assert ranks[0] < 500
    assert ranks[bin_at(1000)] > 20_000


def test_beyond_all_that_was_seen_a_job_ranks_as_a_mean_one() -> None:
    """Not last: a kind's long programs would then never be seen to end."""
    ranks = ranked([1000.0] * 20)
    assert ranks[bin_at(100_000)] == pytest.approx(1000, rel=0.1)


def test_jobs_that_have_not_ended_count_for_what_they_have_outlived() -> None:
    """Short ones have ended, many more have come past them: the kind is not short."""
    ended = [1000.0] * 20
    assert ranked(ended, [30_000.0] * 200)[0] > 5 * ranked(ended)[0]


def test_before_any_has_ended_a_job_that_has_begun_is_not_behind_a_new_one() -> None:
    ranks = ranked([], [4000.0] * 30)
    assert ranks[bin_at(4000)] <= ranks[0]


@given(counts_of, counts_of)
def test_a_rank_is_positive_and_finite(ended: list[float], alive: list[float]) -> None:
    ranks = ranks_ms(EDGES, ended, alive)
    assert len(ranks) == len(ended)
    assert all(0 < rank < math.inf for rank in ranks)


@given(counts_of, counts_of, st.floats(0.01, 100))
def test_the_unit_of_time_changes_no_order(
    ended: list[float], alive: list[float], unit: float
) -> None:
    ranks = ranks_ms(EDGES, ended, alive)
    scaled = ranks_ms([unit * edge for edge in EDGES], ended, alive)
    assert scaled == pytest.approx([unit * rank for rank in ranks])
