"""The process table: every live program and what it has attained (paper section 4.1).

It lives in the one process that sees every arrival and every completion, so any number of replicas
share it and all ranks read the same stamp. Two clocks meet here: service and wait are modelled
milliseconds reported by the schedulers; ``now`` is the caller's wall clock in seconds, used only
for leases and for showing.

Programs belong to tenants. The same id under two tenants is two programs, and who asks for one
says whose. A server without tenants has one, with the empty name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

from autellix_sgl.core.calls.model import CallStamp, CallStatistics
from autellix_sgl.core.calls.policies import Policy
from autellix_sgl.core.calls.waits import add
from autellix_sgl.core.programs.forecast import Forecast, Hints
from autellix_sgl.core.programs.kinds import Kinds
from autellix_sgl.core.programs.learning import Learning
from autellix_sgl.core.programs.lineage import Key, Lineage
from autellix_sgl.core.programs.program import ActiveCall, LeftCall, Program, TableStatistics
from autellix_sgl.errors import ConfigError, UnknownCall, UnknownProgram


class ProcessTable:
    """Programs by id; bounded by an idle lease and by a count.

    A program with calls in the system is never dropped, so the bound is *max_programs* idle ones at
    most, plus those with calls in flight, which the server's own queue limit bounds. *dropped* is
    told of each program that goes.

    With *kinds* it tells programs apart by how their first prompts begin. With *forecast* too, it
    learns from the programs that end, and stamps calls with itineraries.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        lease_s: float,
        max_programs: int,
        dropped: Callable[[Program], None] | None = None,
        kinds: Kinds | None = None,
        forecast: Forecast | None = None,
    ) -> None:
        if not lease_s > 0:
            raise ConfigError(f"program lease must be positive, got {lease_s} s")
        if max_programs < 1:
            raise ConfigError(f"max programs must be at least 1, got {max_programs}")
        self.policy = policy
        self.lease_s = lease_s
        self.max_programs = max_programs
        self._dropped = dropped
        self.kinds = kinds
        self._learning = Learning(kinds, forecast)
        # By tenant, then by id: what one tenant lists must not cost what the others have.
        self._tenants: dict[str, dict[str, Program]] = {}
        self._size = 0
        self._calls: dict[str, ActiveCall] = {}
        # Programs without a call in the system, longest idle first.
        self._idle: OrderedDict[Key, None] = OrderedDict()
        self._lineage = Lineage(max_programs)
        self._opened = self._ended = self._lapsed = self._evicted = 0
        self._completed = self._aborted = self._stray = 0

    # -- events ---------------------------------------------------------------------------------

    def arrive(
        self,
        call_id: str,
        program_id: str,
        *,
        now: float,
        tenant: str = "",
        thread: str = "",
        parent: str | None = None,
        user: str | None = None,
        source: str | None = None,
        transient: bool = False,
        ends_program: bool = False,
        attained_ms: float = 0.0,
        prompt: Sequence[int] = (),
        hints: Hints | None = None,
    ) -> CallStamp:
        """A call entered the system: open its program if needed and stamp the call.

        With *parent*, or known from an earlier call as some program's child, *program_id* is a
        thread of the root program, and its end is not the root's. *prompt* is the call's tokens;
        only those of a program's first call are looked at.

        *attained_ms*: the program has had this much service elsewhere, this server's included. It
        never takes away what is known here, so it may be told twice or late.
        """
        if call_id in self._calls:
            raise UnknownCall(call_id, "arrived twice")
        root = self._lineage.root_of(tenant, program_id, parent)
        if root != program_id:
            thread = f"{program_id}.{thread}" if thread else program_id
            ends_program = False
        program = self._tenants.get(tenant, {}).get(root)
        if program is None:
            program = Program(
                id=root, created_at=now, tenant=tenant, source=source, transient=transient
            )
            self._open(program, prompt)
        program.had_elsewhere(attained_ms)
        call = ActiveCall(call_id, tenant, root, thread, now, program.service_ms, ends_program)
        self._calls[call_id] = call
        program.active[call_id] = call
        program.ended = False
        program.last_arrival_at = now
        program.user = user or program.user
        program.hints = hints or program.hints
        self._idle.pop(program.key, None)
        itinerary, order = self._learning.foresee(program, opened=self._opened)
        return CallStamp(
            program=program.label,
            thread=thread,
            priority_ms=program.service_ms,
            program_wait_ms=program.total_wait_ms,
            program_service_ms=program.total_service_ms,
            itinerary=itinerary,
            order=order,
            kind=program.kind or "",
        )

    def complete(
        self,
        call_id: str,
        statistics: CallStatistics,
        *,
        now: float,
        engine: int = 0,
        output_tokens: int = 0,
    ) -> Program:
        """A call finished: charge its program; returns the program, which may be gone by now."""
        call, program = self._leave(call_id)
        program.output_tokens += output_tokens
        self._account(program, call, statistics, engine)
        program.completed(call.thread)
        program.remember(LeftCall(call.id, call.thread, now, False, statistics))
        self._completed += 1
        self._settle(program, now=now, ends=call.ends_program)
        return program

    def abort(
        self,
        call_id: str,
        *,
        now: float,
        statistics: CallStatistics | None = None,
        engine: int = 0,
    ) -> Program:
        """A call left without finishing. What it did consume is charged all the same, if known."""
        call, program = self._leave(call_id)
        if statistics is not None:
            self._account(program, call, statistics, engine)
            program.remember(LeftCall(call.id, call.thread, now, True, statistics))
        program.calls_aborted += 1
        self._aborted += 1
        self._settle(program, now=now, ends=False)
        return program

    def reconcile(self, live: Container[str], *, now: float) -> list[str]:
        """Abort the calls that are not in *live*, the ids somebody waits for; returns their ids.

        Every call that leaves is said to have, so there are none: a net for what was overlooked.
        """
        stray = [call_id for call_id in self._calls if call_id not in live]
        for call_id in stray:
            self.abort(call_id, now=now)
        self._stray += len(stray)
        return stray

    def end(self, program_id: str, *, tenant: str = "") -> Program:
        """The program is over: gone now, or with its last active call. Raises UnknownProgram."""
        program = self.program(program_id, tenant=tenant)
        program.ended = True
        if not program.active:
            self._drop(program)
            self._ended += 1
        return program

    def expire(self, *, now: float) -> list[str]:
        """Drop the programs that have been idle for the lease; returns their ids."""
        lapsed: list[str] = []
        while self._idle:
            program = self._longest_idle()
            if now - program.last_seen_at < self.lease_s:
                break
            self._drop(program)
            self._lapsed += 1
            lapsed.append(program.id)
        return lapsed

    # -- questions ------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._size

    def __contains__(self, program_id: object) -> bool:
        return any(program_id in programs for programs in self._tenants.values())

    def __iter__(self) -> Iterator[Program]:
        """Live programs of all tenants; of each, oldest first."""
        for programs in self._tenants.values():
            yield from programs.values()

    def root_of(self, program_id: str, *, parent: str | None = None, tenant: str = "") -> str:
        """The program that a call with these ids would belong to."""
        return self._lineage.find(tenant, program_id, parent)

    def programs_of(self, tenant: str) -> Mapping[str, Program]:
        """The live programs of one tenant by id, oldest first. A view, not a copy."""
        return self._tenants.get(tenant, {})

    def active_calls(self) -> Iterable[ActiveCall]:
        """Every call in the system, oldest first. A view, not a copy."""
        return self._calls.values()

    def program(self, program_id: str, *, tenant: str = "") -> Program:
        """The live record of a program; raises UnknownProgram."""
        try:
            return self._tenants[tenant][program_id]
        except KeyError:
            raise UnknownProgram(program_id) from None

    def has_call(self, call_id: str) -> bool:
        return call_id in self._calls

    def active_call(self, call_id: str) -> ActiveCall:
        """The record of a call in the system; raises UnknownCall."""
        try:
            return self._calls[call_id]
        except KeyError:
            raise UnknownCall(call_id, "is not in the table") from None

    def program_of(self, call_id: str) -> Program:
        """The program of a call in the system; raises UnknownCall."""
        call = self.active_call(call_id)
        return self._tenants[call.tenant][call.program]

    def statistics(self) -> TableStatistics:
        return TableStatistics(
            programs=self._size,
            idle_programs=len(self._idle),
            active_calls=len(self._calls),
            opened=self._opened,
            ended=self._ended,
            lapsed=self._lapsed,
            evicted=self._evicted,
            calls_completed=self._completed,
            calls_aborted=self._aborted,
            calls_stray=self._stray,
        )

    def check(self) -> None:
        """Raise AssertionError if calls, programs, children and the idle list disagree."""
        active = sum(len(program.active) for program in self)
        assert active == len(self._calls), f"{active} active calls != {len(self._calls)} known"
        size = sum(len(programs) for programs in self._tenants.values())
        assert size == self._size, f"{size} programs != {self._size} counted"
        assert all(self._tenants.values()), "a tenant without a program is kept"
        for program in self:
            idle = program.key in self._idle
            assert idle == (not program.active), f"{program.id}: idle {idle}, {program.active}"
        assert len(self._idle) <= self.max_programs, "more idle programs than the bound"
        self._lineage.check()

    # -- inside ---------------------------------------------------------------------------------

    def _open(self, program: Program, prompt: Sequence[int]) -> None:
        self._tenants.setdefault(program.tenant, {})[program.id] = program
        self._size += 1
        self._opened += 1
        program.number = self._opened
        self._learning.opened(program, prompt)
        self._make_room()

    def _leave(self, call_id: str) -> tuple[ActiveCall, Program]:
        call = self._calls.pop(call_id, None)
        if call is None:
            raise UnknownCall(call_id, "left, but is not in the table")
        program = self._tenants[call.tenant][call.program]
        del program.active[call_id]
        return call, program

    def _account(
        self, program: Program, call: ActiveCall, statistics: CallStatistics, engine: int
    ) -> None:
        program.service_ms = self.policy.accumulate(
            program.service_ms, call.priority_ms, statistics.service_ms
        )
        program.total_service_ms += statistics.service_ms
        program.total_wait_ms += statistics.wait_ms
        program.waits = add(program.waits, statistics.waits)
        program.preemptions += statistics.preemptions
        program.promotions += statistics.promotions
        program.engines[engine] = program.engines.get(engine, 0) + 1

    def _settle(self, program: Program, *, now: float, ends: bool) -> None:
        """After a call left: drop the program if it is over, else note that it idles."""
        self._learning.count(program)
        program.last_completion_at = now
        program.ended = program.ended or ends
        if program.active:
            return
        if program.ended or program.transient:
            self._drop(program)
            self._ended += 1
            return
        self._idle[program.key] = None
        self._make_room()

    def _make_room(self) -> None:
        """Over the count, drop the program that has been idle longest."""
        while self._size > self.max_programs and self._idle:
            self._drop(self._longest_idle())
            self._evicted += 1

    def _longest_idle(self) -> Program:
        tenant, program_id = next(iter(self._idle))
        return self._tenants[tenant][program_id]

    def _drop(self, program: Program) -> None:
        programs = self._tenants[program.tenant]
        del programs[program.id]
        if not programs:
            del self._tenants[program.tenant]
        self._size -= 1
        self._learning.dropped(program)
        self._idle.pop(program.key, None)
        self._lineage.forget(program.tenant, program.id)
        if self._dropped is not None:
            self._dropped(program)
