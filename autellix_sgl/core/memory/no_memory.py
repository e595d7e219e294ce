"""A scheduler's memory of its programs' KV where nothing is decided by it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from autellix_sgl.core.calls.cost import CostModel
from autellix_sgl.core.calls.model import Call
from autellix_sgl.core.calls.queue import Key
from autellix_sgl.core.memory.admission import Review
from autellix_sgl.core.memory.program_memory import LIVE, Worth


class NoMemory:
    """Stands where a :class:`ProgramMemory` does: all programs are in, contexts go by last use."""

    pool_tokens = 0
    admits = False
    changed = False

    # -- events ---------------------------------------------------------------------------------

    def arrived(self, call: Call, tokens: int, root: int, now_ms: float) -> None:
        """A call entered."""

    def admitted(self, call: Call, tokens: int, cached_tokens: int, now_ms: float) -> None:
        """A call went into the batch."""

    def left(self, call: Call, tokens: int, now_ms: float) -> None:
        """A call ended, or was aborted."""

    def ended(self, program: str) -> None:
        """The program is over."""

    def use_cost_model(self, model: CostModel) -> None:
        """Nothing is reckoned."""

    # -- decisions ------------------------------------------------------------------------------

    def holds(self, program: str) -> bool:
        """No program's calls are held."""
        return False

    def review_due(self, pass_due: bool) -> bool:
        """There is never anybody to let in."""
        return False

    def review(self, held: Iterable[str], now_ms: float) -> Review:
        """Nobody is let in or put out."""
        return Review()

    def worth(
        self,
        program: str | None,
        thread: str,
        used_ms: float,
        *,
        now_ms: float,
        before: Callable[[Key, bool], int],
    ) -> Worth:
        """The longer ago it was used, the less."""
        return (LIVE, used_ms - now_ms)

    def calls_of(self, program: str) -> Sequence[Call]:
        """None is kept."""
        return ()
