import pytest

from autellix_sgl.core import CostModel, StepWork
from autellix_sgl.errors import ConfigError

MODEL = CostModel(10, 0.5, 2, 0.01)


def test_a_step_costs_its_base_its_tokens_its_calls_and_their_context() -> None:
    """The step's time is linear in the four features."""
    work = StepWork(prefills=(("a", 100), ("b", 20)), decodes=("c", "d"), context_tokens=1000)
    assert MODEL.step_ms(work) == 10 + 60 + 4 + 10


def test_cached_tokens_cost_nothing() -> None:
    """A prefill is charged only what was computed for it."""
    cold = dict(MODEL.charges_ms(StepWork(prefills=(("a", 1000),))))
    warm = dict(MODEL.charges_ms(StepWork(prefills=(("a", 1),))))
    assert cold["a"] == 510
    assert warm["a"] == 10.5


def test_nobody_pays_for_another_calls_prefill() -> None:
    """In a mixed step a decode costs what it costs alone, and a prefill its own tokens."""
    mixed = StepWork(prefills=(("a", 100), ("b", 1)), decodes=("c",), context_tokens=50)
    alone = StepWork(decodes=("c",), context_tokens=50)
    charges = dict(MODEL.charges_ms(mixed))
    assert charges["c"] == dict(MODEL.charges_ms(alone))["c"]
    assert charges["a"] > charges["b"]


@pytest.mark.parametrize(
    "fields",
    [{"base_ms": -1}, {"base_ms": float("nan")}, {"base_ms": "1"}, {"bass_ms": 1}, {"base_ms": 0}],
)
def test_a_bad_model_names_the_field(fields: dict[str, float]) -> None:
    """Negative, non-numeric, unknown and all-zero coefficients raise ConfigError."""
    with pytest.raises(ConfigError, match="cost model"):
        CostModel.from_dict(fields)


def test_a_model_survives_its_dictionary() -> None:
    """from_dict reverses as_dict."""
    assert CostModel.from_dict(MODEL.as_dict()) == MODEL
