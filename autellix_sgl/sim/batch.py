"""The calls that decode together, kept so that a jump of n steps costs no more than one."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from autellix_sgl.sim.branch import Branch
from autellix_sgl.sim.seam import CallRecord
from autellix_sgl.workloads import TracedCall


class SimCall:
    """A call at a replica. ``length``: its context so far; while it decodes, as it was on joining.

    ``prefill_left`` tokens are still to be computed before it decodes. While it decodes, it joined
    when the batch had made ``joined_at`` steps and is done when that is ``end``; ``entry`` numbers
    that stay, 0 when it is over. ``cached_tokens`` of its prompt needed no computing.
    """

    __slots__ = (
        "branch", "cached_tokens", "end", "entry", "id", "joined_at", "length", "output_left",
        "prefill_left", "record",
    )  # fmt: skip

    def __init__(
        self, record: CallRecord, call_id: str, traced: TracedCall, branch: Branch
    ) -> None:
        self.record = record
        self.id = call_id
        self.branch = branch
        self.length = traced.prompt_tokens
        self.output_left = traced.output_tokens
        self.prefill_left = 0
        self.cached_tokens = 0
        self.joined_at = 0
        self.end = 0
        self.entry = 0


class DecodeBatch:
    """``steps``: decode steps made so far; ``context_tokens``: the members' contexts, summed.

    Nothing is kept up per member and step: a call's tokens follow from when it joined.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.context_tokens = 0
        self._members: dict[str, SimCall] = {}
        self._ends: list[tuple[int, int, SimCall]] = []
        self._end_sum = 0
        self._joins = 0
        self._ids: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[SimCall]:
        """The members in the order they joined."""
        return iter(self._members.values())

    def __getitem__(self, call_id: str) -> SimCall:
        return self._members[call_id]

    @property
    def ids(self) -> tuple[str, ...]:
        if self._ids is None:
            self._ids = tuple(self._members)
        return self._ids

    @property
    def tokens_left(self) -> int:
        """What the members have yet to decode, together."""
        return self._end_sum - self.steps * len(self._members)

    @property
    def steps_to_next_end(self) -> int:
        """Until the first member is done; there must be one."""
        while not self._is_current(self._ends[0]):
            heappop(self._ends)
        return self._ends[0][0] - self.steps

    def length_of(self, call: SimCall) -> int:
        """A member's context now."""
        return call.length + self.steps - call.joined_at

    def join(self, call: SimCall) -> None:
        call.joined_at = self.steps
        call.end = self.steps + call.output_left
        self._members[call.id] = call
        self._ids = None
        self.context_tokens += call.length
        self._end_sum += call.end
        self._joins += 1
        call.entry = self._joins
        heappush(self._ends, (call.end, call.entry, call))

    def leave(self, call: SimCall) -> int:
        """Take a member out, done or not; returns how many tokens it decoded since it joined."""
        del self._members[call.id]
        self._ids = None
        decoded = self.steps - call.joined_at
        call.length += decoded
        call.output_left = call.end - self.steps
        self.context_tokens -= call.length
        self._end_sum -= call.end
        call.entry = 0
        return decoded

    def advance(self, steps: int) -> list[SimCall]:
        """Every member decodes *steps* tokens; returns those that are done, still members."""
        self.steps += steps
        self.context_tokens += steps * len(self._members)
        done = []
        while self._ends and self._ends[0][0] <= self.steps:
            entry = heappop(self._ends)
            if self._is_current(entry):
                done.append(entry[2])
        return done

    def _is_current(self, entry: tuple[int, int, SimCall]) -> bool:
        """Whether an entry's call is still here, and has not left and joined again since."""
        return entry[2].entry == entry[1]
