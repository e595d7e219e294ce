"""What the process table learns of its programs: their kinds, and what these ask for in all."""

from __future__ import annotations

from collections.abc import Sequence

from autellix_sgl.core.calls.model import Itinerary
from autellix_sgl.core.programs.forecast import Forecast
from autellix_sgl.core.programs.kinds import Kinds, heads_of
from autellix_sgl.core.programs.program import Program


class Learning:
    """Keeps *kinds* and *forecast* up to date with a table's programs; without them, does nothing.

    With *kinds* programs are told apart by how their first prompts begin. With *forecast* too, the
    programs that end tell what others of their kind will ask for.
    """

    def __init__(self, kinds: Kinds | None, forecast: Forecast | None) -> None:
        self._kinds = kinds
        self._forecast = forecast

    def opened(self, program: Program, prompt: Sequence[int]) -> None:
        """A program makes its first call, with a prompt of these tokens."""
        if self._kinds is not None:
            program.heads = heads_of(prompt)
            self._kinds.opened(program.tenant, program.heads)

    def foresee(self, program: Program, *, opened: int) -> tuple[Itinerary, int]:
        """Where a call of *program* goes, and before whom within a level.

        Programs with an itinerary go in the order they opened, each call of one before those of the
        next: a level is wide, and taking turns within it would finish all of them late. The others
        take turns, behind the *opened* programs that there have been by now.
        """
        self._recognise(program)
        if self._forecast is None or program.history is None:
            return (), 0
        self.count(program)
        itinerary = self._forecast.itinerary(program.history, program.service_ms, program.hints)
        return itinerary, program.number if itinerary else opened

    def count(self, program: Program) -> None:
        """Tell its kind's history how far the program has come; or that it makes no call now."""
        if program.history is not None:
            service_ms = program.total_service_ms if program.active else None
            program.history_bin = program.history.moved(program.history_bin, service_ms)

    def dropped(self, program: Program) -> None:
        """The program is over: what it had tells what others of its kind will ask for."""
        self._recognise(program)
        if program.history is not None and program.total_service_ms > 0:
            program.history.ended(
                program.total_service_ms,
                calls=program.calls_completed,
                tokens=program.output_tokens,
                elsewhere_ms=program.elsewhere_ms,
            )

    def _recognise(self, program: Program) -> None:
        """Give the program its kind, once there is one; it keeps it."""
        if self._kinds is not None and program.kind is None:
            program.kind = self._kinds.find(program.tenant, program.heads)
            if program.kind is not None:
                program.heads = ()
        if self._forecast is None or (program.history is not None and program.history.known):
            return
        if program.history is not None:
            program.history_bin = program.history.moved(program.history_bin, None)
        program.history = self._forecast.history(program.tenant, program.kind)
