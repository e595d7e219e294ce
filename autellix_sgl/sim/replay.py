"""A recorded run, decided again: the same events into a fresh core must give the same decisions.

A trace is JSON lines, each ``[event, {fields}]``, written by
:class:`autellix_sgl.decision_trace.TraceWriter`. The first is what the scheduler was made of:

    ["start", {"policy": "atlas", "boundaries_ms": [200.0, ...], "quanta_ms": [200.0, ..., null],
               "cost_model": {"base_ms": ..., ...}, "starvation_ratio": 8.0, "interval": 4}]

(a quantum of null has no end; where tenants have shares, ``share_turn_ms`` too, and with program
admission ``pool_tokens``), written once; ``["cost_model", {"base_ms": ..., ...}]`` stands wherever
the model was replaced. All others are what :class:`~autellix_sgl.core.CallScheduler` tells its
``record``. Replayed are arrive, admit, requeue, step, remove, end_program and short_of; promote,
choose_victims and programs (who was let in and put out) are decisions, so they are asked for and
compared. Every field is compared: level, ticket and clock to the last bit, and who had to make way.
``waits`` lines, which say why a call waited, are compared where the trace has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path

from autellix_sgl.core import (
    CallStamp,
    Candidate,
    CostModel,
    Levels,
    ProgramMemory,
    Running,
    StepWork,
    policy_named,
)
from autellix_sgl.core.calls.model import Itinerary
from autellix_sgl.core.calls.queue import Key
from autellix_sgl.core.calls.waits import Reason
from autellix_sgl.errors import AutellixError, ConfigError, UnknownCall
from autellix_sgl.sim.jump import JumpingScheduler
from autellix_sgl.workloads.errors import WorkloadError
from autellix_sgl.workloads.fields import Record, read_events

MOST_DIFFERENCES = 20
# A pool can be overcommitted: such counts may be negative.
BELOW_ANY = -(2**62)


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a replay decided otherwise. ``line``: of the trace."""

    line: int
    event: str
    recorded: object
    replayed: object


def replay_file(path: Path) -> dict[str, object]:
    """Replay a trace file; JSON-ready, with the first differences."""
    events, differences = replay(read_events(path))
    return {
        "file": str(path),
        "events": events,
        "identical": not differences,
        "differences": [asdict(difference) for difference in differences],
    }


def replay(lines: Iterable[tuple[str, Record]]) -> tuple[int, list[Difference]]:
    """Drive a fresh scheduler with the events; returns how many, and where it differed."""
    remaining = iter(lines)
    event, start = next(remaining, (None, None))
    if event != "start" or start is None:
        raise ConfigError("a trace must begin with its start line; this one does not")
    player = _Player(start)
    count = 1
    for name, fields in remaining:
        player.play(name, fields)
        count += 1
        if len(player.differences) >= MOST_DIFFERENCES:
            break
    return count, player.differences


class _Player:
    """The fresh scheduler, and the decisions it has made that the trace has not come to yet."""

    def __init__(self, start: Record) -> None:
        self.differences: list[Difference] = []
        self._made: list[tuple[str, dict[str, object]]] = []
        try:
            quanta = [math.inf if q is None else float(q) for q in start.items("quanta_ms")]
            boundaries = tuple(start.numbers("boundaries_ms"))
            model = _cost_model(start.inside("cost_model", start.get("cost_model")))
            self._scheduler = JumpingScheduler(
                policy_named(start.text("policy")),
                Levels(boundaries, tuple(quanta)),
                model,
                starvation_ratio=start.number("starvation_ratio"),
                interval=start.whole("interval", at_least=1),
                share_turn_ms=start.number("share_turn_ms") if "share_turn_ms" in start else None,
                record=lambda event, fields: self._made.append((event, fields)),
                memory=_memory(start, model),
            )
        except ConfigError as error:
            start.fail("", str(error))
        self._made.clear()  # it has told what it is made of

    def play(self, event: str, fields: Record) -> None:
        """Let the event happen, and compare what the scheduler says of it."""
        if event != "waits":
            # They explain what was decided, and a trace may lack them.
            self._made = [made for made in self._made if made[0] != "waits"]
        try:
            self._drive(event, fields)
        except UnknownCall as error:
            self.differences.append(Difference(fields.line, event, fields.data, str(error)))
            return
        made = self._made.pop(0) if self._made else ("nothing", {})
        replayed = [made[0], _plain(made[1])]
        if replayed != [event, fields.data]:
            self.differences.append(Difference(fields.line, event, fields.data, replayed))

    def _drive(self, event: str, fields: Record) -> None:
        scheduler = self._scheduler
        if event == "promote":
            # Several may come of one question; it was asked at the first of them.
            if not self._made:
                scheduler.promote_starving()
            return
        if event == "waits":
            return  # it came with the event before
        self._report_unrecorded(fields.line)
        if event == "arrive":
            scheduler.arrive(
                fields.text("call"),
                _stamp(fields.inside("stamp", fields.get("stamp")), scheduler.levels.count),
                _tokens(fields, "tokens"),
                fields.whole("root", default=0),
            )
        elif event == "admit":
            cached_tokens = _tokens(fields, "cached_tokens")
            scheduler.admit(fields.text("call"), _tokens(fields, "tokens"), cached_tokens)
        elif event == "remove":
            scheduler.remove(fields.text("call"), _tokens(fields, "tokens"))
        elif event == "end_program":
            scheduler.end_program(fields.text("program"))
        elif event == "programs":
            scheduler.review_programs()
        elif event == "step":
            work = _work(fields.inside("work", fields.get("work")))
            scheduler.step(work, fields.whole("repeat", at_least=1, default=1))
        elif event == "cost_model":
            scheduler.use_cost_model(_cost_model(fields))
        elif event == "choose_victims":
            self._choose_victims(fields)
        elif event == "requeue":
            scheduler.requeue(fields.text("call"))
        elif event == "short_of":
            scheduler.short_of(_reason(fields))
        else:
            fields.fail("", f"unknown event {event!r}")

    def _choose_victims(self, fields: Record) -> None:
        running = [_running(item) for item in fields.records("running")]
        for call in running:
            level = self._scheduler.call(call.id).level
            if call.key[-2] != level:
                self.differences.append(Difference(fields.line, "level", call.key[-2], level))
        self._scheduler.choose_victims(
            [_candidate(item) for item in fields.records("candidates")],
            running,
            free_slots=fields.whole("free_slots", at_least=BELOW_ANY),
            free_tokens=fields.whole("free_tokens", at_least=BELOW_ANY),
            min_steps_left=fields.whole("min_steps_left", at_least=BELOW_ANY),
        )

    def _report_unrecorded(self, line: int) -> None:
        for event, fields in self._made:
            self.differences.append(Difference(line, event, None, _plain(fields)))
        self._made.clear()


def _memory(start: Record, model: CostModel) -> ProgramMemory | None:
    pool_tokens = start.whole("pool_tokens", default=0)
    return ProgramMemory(pool_tokens, model, admission=True) if pool_tokens else None


def _tokens(fields: Record, name: str) -> int:
    """A size that is written only where something was decided by it."""
    return fields.whole(name, default=0)


def _cost_model(fields: Record) -> CostModel:
    try:
        return CostModel.from_dict(fields.data)
    except AutellixError as error:
        fields.fail("", str(error))


def _reason(fields: Record) -> Reason:
    try:
        return Reason(fields.text("reason"))
    except ValueError:
        fields.fail("reason", f"must be one of {', '.join(Reason)}")


def _stamp(fields: Record, levels: int) -> CallStamp:
    return CallStamp(
        program=fields.text("program"),
        thread=fields.text("thread"),
        priority_ms=fields.number("priority_ms"),
        program_wait_ms=fields.number("program_wait_ms"),
        program_service_ms=fields.number("program_service_ms"),
        itinerary=_itinerary(fields, levels) if "itinerary" in fields else (),
        order=fields.whole("order", default=0),
        tenant=fields.text("tenant", ""),
        weight=fields.number("weight", default=1.0),
        kind=fields.text("kind", default=""),
    )


def _itinerary(fields: Record, levels: int) -> Itinerary:
    legs = []
    for leg in fields.items("itinerary"):
        match leg:
            case [int(level), None | int() | float() as quantum_ms] if 0 <= level < levels:
                legs.append((level, quantum_ms))
            case _:
                fields.fail(
                    "itinerary", f"must pair levels below {levels} with ms or null, got {leg!r}"
                )
    return tuple(legs)


def _work(fields: Record) -> StepWork:
    return StepWork(
        prefills=tuple(_pair(fields, pair) for pair in fields.items("prefills")),
        decodes=tuple(fields.items("decodes")),
        context_tokens=fields.whole("context_tokens"),
    )


def _pair(fields: Record, pair: Sequence[object]) -> tuple[str, int]:
    if not isinstance(pair, list) or len(pair) != 2:
        fields.fail("prefills", f"must pair a call with tokens, got {pair!r}")
    call, tokens = pair
    if not isinstance(call, str) or not isinstance(tokens, int):
        fields.fail("prefills", f"must pair a call with tokens, got {pair!r}")
    return call, tokens


def _key(item: Record) -> Key:
    return tuple(item.wholes("key"))


def _candidate(item: Record) -> Candidate:
    return Candidate(_key(item), item.whole("tokens", at_least=BELOW_ANY))


def _running(item: Record) -> Running:
    return Running(
        item.text("id"),
        _key(item),
        item.whole("tokens", at_least=BELOW_ANY),
        item.whole("steps_left", at_least=BELOW_ANY),
        bool(item.get("preemptible")),
    )


def _plain(value: object) -> object:
    """As JSON would give it back: records as objects, tuples as lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def recorded(
    events: Iterable[tuple[str, dict[str, object]]], file: str = "memory"
) -> Iterator[tuple[str, Record]]:
    """Events as :func:`replay` wants them, from a recorder that kept them in memory."""
    for line, (event, fields) in enumerate(events, start=1):
        plain = _plain(fields)
        if not isinstance(plain, dict):
            raise WorkloadError(file, line, "", "expected an event's fields")
        yield event, Record(file, line, plain)
