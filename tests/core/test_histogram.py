"""The histogram that forgets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core.programs.histogram import GeometricHistogram
from autellix_sgl.errors import ConfigError


def make(memory: float = 10.0) -> GeometricHistogram:
    return GeometricHistogram(first=1.0, growth=2.0, bins=4, memory=memory)


def test_a_value_falls_in_the_bin_that_its_edge_ends() -> None:
    histogram = make()
    assert [histogram.bin_of(value) for value in (0.0, 1.0, 1.1, 2.0, 4.0, 4.1, math.inf)] == [
        0, 0, 1, 1, 2, 3, 3,
    ]  # fmt: skip


def test_the_last_bin_has_no_end() -> None:
    assert [make().bounds(number) for number in range(4)] == [
        (0.0, 1.0),
        (1.0, 2.0),
        (2.0, 4.0),
        (4.0, None),
    ]


def test_an_observation_made_just_now_counts_one() -> None:
    histogram = make()
    histogram.add(3.0)
    assert histogram.counts() == [0.0, 0.0, 1.0, 0.0]


def test_what_was_seen_long_ago_is_outweighed() -> None:
    histogram = make(memory=10.0)
    for _ in range(1000):
        histogram.add(0.5)
    for _ in range(30):
        histogram.add(5.0)
    counts = histogram.counts()
    assert counts[3] > 10 * counts[0] > 0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.floats(1, 50))
def test_the_total_is_bounded_by_the_memory(values: list[float], memory: float) -> None:
    histogram = make(memory)
    for value in values:
        histogram.add(value)
    assert 0 < histogram.total <= min(len(values), memory + 1) * (1 + 1e-9)


def test_weights_are_scaled_back_without_changing_what_counts() -> None:
    histogram = make(memory=2.0)
    for number in range(500):
        histogram.add(float(number % 5))
    assert max(histogram.weights) < 2.0**41
    assert histogram.total == pytest.approx(3.0)


@pytest.mark.parametrize(
    "bad", [{"first": 0.0}, {"growth": 1.0}, {"bins": 1}, {"memory": 0.5}, {"first": math.nan}]
)
def test_impossible_shapes_are_refused(bad: dict[str, float]) -> None:
    shape = {"first": 1.0, "growth": 2.0, "bins": 4, "memory": 10.0, **bad}
    with pytest.raises(ConfigError, match="histogram"):
        GeometricHistogram(**shape)  # type: ignore[arg-type]
