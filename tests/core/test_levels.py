import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core import Levels
from autellix_sgl.errors import ConfigError


@given(
    count=st.integers(1, 12),
    first=st.floats(0.1, 1e4),
    growth=st.floats(1, 4),
    service=st.floats(0, 1e9),
)
def test_every_service_value_falls_in_the_level_whose_range_covers_it(
    count: int, first: float, growth: float, service: float
) -> None:
    """level_of returns the one level with boundaries[i-1] <= service < boundaries[i]."""
    levels = Levels.geometric(count, first, growth)
    edges = (0.0, *levels.boundaries_ms, math.inf)
    level = levels.level_of(service)
    assert edges[level] <= service < edges[level + 1]


def test_a_call_that_runs_alone_crosses_a_boundary_when_its_quantum_ends() -> None:
    """Geometric boundaries are the sums of the quanta above them; the last quantum is endless."""
    levels = Levels.geometric(4, 10, 2)
    assert levels.quanta_ms == (10, 20, 40, math.inf)
    assert levels.boundaries_ms == (10, 30, 70)


@pytest.mark.parametrize(
    ("boundaries", "quanta"),
    [((2.0,), (1.0,)), ((2.0, 1.0), (1.0, 1.0, 1.0)), ((0.0,), (1.0, 1.0)), ((), (0.0,))],
)
def test_shapes_that_make_no_sense_are_refused(
    boundaries: tuple[float, ...], quanta: tuple[float, ...]
) -> None:
    """Wrong counts, boundaries that do not increase and quanta of zero raise ConfigError."""
    with pytest.raises(ConfigError, match="levels"):
        Levels(boundaries, quanta)
