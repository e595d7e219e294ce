"""Service as modelled time: what a step of the executor costs, in milliseconds.

A model instead of a clock, because every tensor-parallel rank and every replay must compute the
same number, and because it charges only the tokens that are computed: a prefix found in the radix
cache costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autellix_sgl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class StepWork:
    """One forward pass: who prefilled how many tokens, who decoded, over how much context.

    ``prefills`` pairs a call id with the tokens computed for it in this step (cached tokens not
    counted). ``decodes`` lists the calls that decoded one token. ``context_tokens`` is the sum of
    the decoding calls' context lengths.
    """

    prefills: tuple[tuple[str, int], ...] = ()
    decodes: tuple[str, ...] = ()
    context_tokens: int = 0

    @property
    def prefill_tokens(self) -> int:
        return sum(tokens for _, tokens in self.prefills)

    @property
    def features(self) -> tuple[float, float, float, float]:
        """The regressors of :class:`CostModel`, in its order."""
        counts = (self.prefill_tokens, len(self.decodes), self.context_tokens)
        return (1.0, *(float(count) for count in counts))  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class CostModel:
    """``base + per_prefill_token*P + per_decode_call*D + per_context_token*C`` milliseconds.

    ``error`` is the mean absolute relative error of the fit that produced it, None for a table.
    """

    base_ms: float = 1.0
    per_prefill_token_ms: float = 0.0
    per_decode_call_ms: float = 0.0
    per_context_token_ms: float = 0.0
    error: float | None = None

    def __post_init__(self) -> None:
        for name in COEFFICIENTS:
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"cost model: {name} must be a finite number >= 0, got {value}")
        if not any(getattr(self, name) > 0 for name in COEFFICIENTS):
            raise ConfigError("cost model: at least one coefficient must be positive")

    def step_ms(self, work: StepWork) -> float:
        """The whole step's time."""
        return (
            self.base_ms
            + self.per_prefill_token_ms * work.prefill_tokens
            + self.per_decode_call_ms * len(work.decodes)
            + self.per_context_token_ms * work.context_tokens
        )

    def charges_ms(self, work: StepWork) -> Sequence[tuple[str, float]]:
        """Each participant's share of the blame: (call id, ms), prefills first, in batch order.

        A prefill is charged the step's base and its own tokens; a decode the base and the decoding
        batch it ran in. Nobody is charged for another call's prefill (docs/deviations.md).
        """
        decode_ms = (
            self.base_ms
            + self.per_decode_call_ms * len(work.decodes)
            + self.per_context_token_ms * work.context_tokens
        )
        prefills = [
            (call, self.base_ms + self.per_prefill_token_ms * tokens)
            for call, tokens in work.prefills
        ]
        return prefills + [(call, decode_ms) for call in work.decodes]

    def as_dict(self) -> dict[str, float | None]:
        return {**{name: getattr(self, name) for name in COEFFICIENTS}, "error": self.error}

    @classmethod
    def from_dict(cls, fields: dict[str, float | None]) -> CostModel:
        """The reverse of :meth:`as_dict`; raises ConfigError on an unknown or non-numeric field."""
        known = (*COEFFICIENTS, "error")
        for name, value in fields.items():
            if name not in known:
                raise ConfigError(f"cost model: unknown field {name!r} (known: {', '.join(known)})")
            if not (value is None and name == "error") and (
                isinstance(value, bool) or not isinstance(value, int | float)
            ):
                raise ConfigError(f"cost model: {name} must be a number, got {value!r}")
        return cls(**fields)  # type: ignore[arg-type]


COEFFICIENTS = ("base_ms", "per_prefill_token_ms", "per_decode_call_ms", "per_context_token_ms")
