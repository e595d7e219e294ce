"""Which replica a call goes to (paper section 4.3).

    round_robin     in turn
    least_used      the fewest calls in the system
    program         the paper's Algorithm 2: a call of at most 2048 tokens to the least used; a
                    longer one to its program's replica, which is the least used at the first
    program-radix   where it costs all calls together the least time, by the cost model

The last one weighs, in one unit, what a replica has to do and what of the prompt it would have to
compute:

    prefill   tokens that are not cached there; the calls that decode there stand still meanwhile
    decode    every step is longer for the call by the others, and for the others by the call
    queue     with a full batch, the work of the calls that wait before it

So a program stays where its KV is until waiting there costs more than computing the prefix
elsewhere, and the parallel threads of one program stay together until its replica is full.

A :class:`Placer` is told of calls that come and go. Ties go to the replica with the lowest number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from autellix_sgl.core.calls.cost import CostModel
from autellix_sgl.core.placement.footprint import Footprint
from autellix_sgl.errors import ConfigError, NoReplica, UnknownCall

# Calls up to this long share little beyond the system prompt, which every replica has.
LONG_CALL_TOKENS = 2048

# What a call generates as long as none has ended: weighs as much as one call that has.
USUAL_OUTPUT_TOKENS = 256


@dataclass(frozen=True, slots=True)
class NewCall:
    """A call to be placed. ``output_tokens`` is a guess; ``turn`` counts the calls before it."""

    footprint: Footprint
    prompt_tokens: int
    output_tokens: float
    turn: int


@dataclass(frozen=True, slots=True)
class Prices:
    """What things cost in microseconds, on a replica that decodes ``batch`` calls when it is full.

    ``slowdown``: how much one more decoding call lengthens a step, without its context.
    """

    batch: int
    prefill_token: float
    step: float
    slowdown: float
    context_token: float

    @classmethod
    def of(cls, model: CostModel, batch: int) -> Prices:
        return cls(
            batch=max(1, batch),
            prefill_token=model.per_prefill_token_ms * 1e3,
            step=model.base_ms * 1e3,
            slowdown=model.per_decode_call_ms * 1e3,
            context_token=model.per_context_token_ms * 1e3,
        )

    def decode(self, call: NewCall) -> float:
        """How much the call lengthens the steps it is in, all of them together."""
        context_tokens = call.prompt_tokens + call.output_tokens / 2
        return call.output_tokens * (self.slowdown + self.context_token * context_tokens)

    def work(self, call: NewCall, computed_tokens: float) -> int:
        """The time of a full replica that the call takes up: its prefill, its share of steps."""
        share = call.output_tokens * self.step / self.batch
        return round(self.prefill_token * computed_tokens + self.decode(call) + share)


class Loads:
    """What is outstanding at each replica: ``calls`` in the system, and their ``work_us``.

    Whole microseconds, so that what is taken off is what was put on. ``busy`` is what replicas are
    compared by if nothing of the prompt is cached: the work of those that wait, then the calls.
    ``live`` has the numbers of the replicas that are there, in order; ``alive`` says it by number.
    """

    def __init__(self, replicas: int) -> None:
        if replicas < 1:
            raise ConfigError(f"placement: at least 1 replica is needed, got {replicas}")
        self.live = list(range(replicas))
        self.alive = [True] * replicas
        self.calls = [0] * replicas
        self.work_us = [0] * replicas
        self.busy = [(0, 0)] * replicas

    def least_used(self) -> int:
        return min(self.live, key=self.calls.__getitem__)

    def least_busy(self) -> int:
        return min(self.live, key=self.busy.__getitem__)

    def change(self, replica: int, calls: int, work_us: int, batch: int) -> None:
        """*calls* came (or left, if negative) with *work_us*."""
        self.calls[replica] = count = self.calls[replica] + calls
        self.work_us[replica] = total_us = self.work_us[replica] + work_us
        # A call that came now would wait for all but as many as run beside it.
        before_it = max(0, count + 1 - batch)
        self.busy[replica] = (before_it * total_us // count if before_it else 0, count)

    def remove(self, replica: int) -> None:
        self.alive[replica] = False
        self.live.remove(replica)


Policy = Callable[[Loads, Prices, NewCall], int]


def round_robin(loads: Loads, prices: Prices, call: NewCall) -> int:
    """Call by call in turn."""
    return loads.live[call.turn % len(loads.live)]


def least_used(loads: Loads, prices: Prices, call: NewCall) -> int:
    """The fewest calls in the system."""
    return loads.least_used()


def by_program(loads: Loads, prices: Prices, call: NewCall) -> int:
    """Algorithm 2. A program's first long call gives it its replica, for as long as that lives."""
    if call.prompt_tokens <= LONG_CALL_TOKENS:
        return loads.least_used()
    home = call.footprint.home
    if home is None or not loads.alive[home]:
        home = call.footprint.home = loads.least_used()
    return home


def by_cost(loads: Loads, prices: Prices, call: NewCall) -> int:
    """The least cost among the replicas that know the program and the least busy of all."""
    footprint = call.footprint
    best = loads.least_busy()
    if not footprint.tokens:
        return best
    share, decode_us = footprint.found_share, 2 * prices.decode(call)

    def cost_us(replica: int) -> float:
        queue_us, calls = loads.busy[replica]
        decoding = min(calls, prices.batch)
        computed = call.prompt_tokens - share * footprint.bound(replica, call.prompt_tokens)
        prefill_us = prices.prefill_token * computed * (1 + decoding)
        return prefill_us + decode_us * decoding + queue_us

    best_us = cost_us(best)
    for replica in footprint.tokens:
        if loads.alive[replica]:
            replica_us = cost_us(replica)
            if (replica_us, replica) < (best_us, best):
                best, best_us = replica, replica_us
    return best


PLACEMENTS: Mapping[str, Policy] = {
    "round_robin": round_robin,
    "least_used": least_used,
    "program": by_program,
    "program-radix": by_cost,
}


@dataclass(frozen=True, slots=True)
class PlacedCall:
    """A call in the system: where, how many tokens could be cached, and its outstanding work."""

    replica: int
    footprint: Footprint
    prompt_tokens: int
    bound: int
    work_us: int


class Placer:
    """Places the calls of all programs on *replicas*, numbered from 0, by a policy's name.

    *batch* is how many calls a replica decodes at once when it is full. Raises ConfigError for an
    unknown policy or no replica.
    """

    def __init__(self, policy: str, replicas: int, cost_model: CostModel, *, batch: int) -> None:
        if policy not in PLACEMENTS:
            known = ", ".join(PLACEMENTS)
            raise ConfigError(f"unknown placement {policy!r} (known: {known})")
        self.policy = policy
        self.loads = Loads(replicas)
        self.prices = Prices.of(cost_model, batch)
        self._choose = PLACEMENTS[policy]
        self._calls: dict[str, PlacedCall] = {}
        self._turn = 0
        self._ended = 0
        self._output_tokens = 0

    def use_cost_model(self, cost_model: CostModel, *, batch: int) -> None:
        """Weigh the calls that are placed from now on by *cost_model*."""
        self.prices = Prices.of(cost_model, batch)

    # -- events ---------------------------------------------------------------------------------

    def place(
        self,
        call_id: str,
        footprint: Footprint,
        *,
        prompt_tokens: int,
        max_output_tokens: int | None = None,
        replica: int | None = None,
    ) -> int:
        """The replica for a call, which counts as outstanding there until it leaves.

        *replica* says where it has to go, if somebody else has decided. Raises NoReplica if none is
        left, or that one is gone, and UnknownCall for an id that is in the system.
        """
        if call_id in self._calls:
            raise UnknownCall(call_id, "was placed twice")
        output_tokens = self._expected_output(footprint, max_output_tokens)
        call = NewCall(footprint, prompt_tokens, output_tokens, self._turn)
        replica = self._chosen(call) if replica is None else self._named(replica)
        self._turn += 1
        bound = footprint.bound(replica, prompt_tokens)
        work_us = self.prices.work(call, prompt_tokens - bound * footprint.found_share)
        self._calls[call_id] = PlacedCall(replica, footprint, prompt_tokens, bound, work_us)
        self.loads.change(replica, 1, work_us, self.prices.batch)
        footprint.placed(replica, prompt_tokens)
        return replica

    def finish(self, call_id: str, *, cached_tokens: int, output_tokens: int) -> int:
        """A call ended, having found *cached_tokens* of its prompt; returns where it ran."""
        call = self._leave(call_id)
        call.footprint.ended(
            call.replica,
            bound=call.bound,
            cached_tokens=cached_tokens,
            prompt_tokens=call.prompt_tokens,
            output_tokens=output_tokens,
        )
        self._ended += 1
        self._output_tokens += output_tokens
        return call.replica

    def abort(self, call_id: str) -> int:
        """A call left without an end to learn from; returns where it was."""
        return self._leave(call_id).replica

    def remove(self, replica: int) -> list[str]:
        """A replica is gone for good; returns the ids of its calls, which have left with it."""
        self.loads.remove(replica)
        lost = [call_id for call_id, call in self._calls.items() if call.replica == replica]
        for call_id in lost:
            self._leave(call_id)
        return lost

    # -- questions ------------------------------------------------------------------------------

    def __contains__(self, call_id: object) -> bool:
        return call_id in self._calls

    def replica_of(self, call_id: str) -> int:
        """Where a call in the system is; raises UnknownCall."""
        try:
            return self._calls[call_id].replica
        except KeyError:
            raise UnknownCall(call_id, "was not placed") from None

    def check(self) -> None:
        """Raise AssertionError if the loads are not the sums of the calls in the system."""
        for replica in range(len(self.loads.calls)):
            here = [call for call in self._calls.values() if call.replica == replica]
            assert self.loads.calls[replica] == len(here), f"replica {replica}: {len(here)} calls"
            work_us = sum(call.work_us for call in here)
            assert self.loads.work_us[replica] == work_us, f"replica {replica}: {work_us} us"

    # -- inside ---------------------------------------------------------------------------------

    def _chosen(self, call: NewCall) -> int:
        if not self.loads.live:
            raise NoReplica("no replica is left")
        return self._choose(self.loads, self.prices, call)

    def _named(self, replica: int) -> int:
        if not (0 <= replica < len(self.loads.alive) and self.loads.alive[replica]):
            raise NoReplica(f"replica {replica} is not there")
        return replica

    def _leave(self, call_id: str) -> PlacedCall:
        call = self._calls.pop(call_id, None)
        if call is None:
            raise UnknownCall(call_id, "left, but was not placed")
        self.loads.change(call.replica, -1, -call.work_us, self.prices.batch)
        return call

    def _expected_output(self, footprint: Footprint, limit: int | None) -> float:
        """The mean of the program's calls so far, with that of all programs as one more call."""
        usual = (self._output_tokens + USUAL_OUTPUT_TOKENS) / (self._ended + 1)
        expected = (footprint.output_tokens + usual) / (footprint.calls + 1)
        return expected if limit is None else min(expected, limit)
