"""Tenants' shares: the order, what is promised of it, and who gains nothing by what."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autellix_sgl.core import (
    CallScheduler,
    CallStamp,
    Candidate,
    CostModel,
    Levels,
    Running,
    StepWork,
    policy_named,
)
from autellix_sgl.core.scheduling.shares import FEW_ACCOUNTS, SharedQueue
from autellix_sgl.errors import ConfigError

TURN_MS = 64.0
SLOTS = 4
INTERVAL = 2


def scheduler(turn_ms: float | None = TURN_MS, *, policy: str = "plas") -> CallScheduler:
    """One unit of service a step; levels that begin at 0, 8 and 40."""
    return CallScheduler(
        policy_named(policy),
        Levels((8.0, 40.0), (8.0, 32.0, math.inf)),
        CostModel(1.0),
        starvation_ratio=8.0,
        interval=INTERVAL,
        share_turn_ms=turn_ms,
    )


@dataclass
class Client:
    """A tenant that keeps *wanted* calls in the system, of *steps* steps each, in turn.

    ``fresh``: each call is of a program of its own; else they are one program, which grows old.
    """

    tenant: str
    steps: Sequence[int]
    weight: float = 1.0
    wanted: int = 2 * SLOTS
    fresh: bool = False
    sent: int = 0
    service_ms: float = 0.0

    def stamp(self) -> CallStamp:
        attained = 0.0 if self.fresh else self.service_ms
        program = f"{self.tenant}-{self.sent if self.fresh else 0}"
        return CallStamp(
            program,
            priority_ms=attained,
            program_service_ms=attained,
            tenant=self.tenant,
            weight=self.weight,
        )


class Machine:
    """A batch of SLOTS calls, preemption passes, and clients that send again at once."""

    def __init__(self, calls: CallScheduler, clients: Sequence[Client]) -> None:
        self.calls = calls
        self.clients = {client.tenant: client for client in clients}
        self.left: dict[str, int] = {}
        self.owner: dict[str, Client] = {}
        self.running: list[str] = []
        self.served: Counter[str] = Counter()

    def step(self) -> None:
        for client in self.clients.values():
            while sum(owner is client for owner in self.owner.values()) < client.wanted:
                self._send(client)
        self._preempt()
        for call in self.calls.head(SLOTS - len(self.running)):
            self.calls.admit(call)
            self.running.append(call)
        self.calls.step(StepWork(decodes=tuple(self.running)))
        for call in list(self.running):
            client = self.owner[call]
            client.service_ms += 1
            self.served[client.tenant] += 1
            self.left[call] -= 1
            if not self.left[call]:
                self.calls.remove(call)
                self.running.remove(call)
                del self.owner[call]
        self.calls.check()

    def waiting(self) -> Counter[str]:
        return Counter(self.owner[call].tenant for call in self.calls.waiting())

    def _send(self, client: Client) -> None:
        client.sent += 1
        call = f"{client.tenant}.{client.sent}"
        self.calls.arrive(call, client.stamp())
        self.owner[call] = client
        self.left[call] = client.steps[client.sent % len(client.steps)]

    def _preempt(self) -> None:
        self.calls.promote_starving()
        if not self.calls.pass_due:
            return
        self.calls.begin_pass()
        victims = self.calls.choose_victims(
            (Candidate(self.calls.call(call).key, 0) for call in self.calls.waiting()),
            [Running(call, self.calls.call(call).key, 0, self.left[call]) for call in self.running],
            free_slots=SLOTS - len(self.running),
            free_tokens=0,
            min_steps_left=1,
        )
        for call in victims:
            self.running.remove(call)
            self.calls.requeue(call)


# What can run between two passes; over the weight it is virtual time.
OVERRUN_MS = SLOTS * (INTERVAL + 1)

LENGTHS = st.lists(st.integers(1, 90), min_size=1, max_size=6)
WEIGHTS = st.sampled_from([1.0, 0.5, 0.25, 0.75])


@settings(deadline=None, max_examples=60)
@given(LENGTHS, LENGTHS, WEIGHTS, WEIGHTS, st.booleans(), st.booleans())
def test_two_tenants_that_wait_get_service_by_their_weights(
    one: list[int], two: list[int], weight: float, other: float, fresh: bool, fresh_too: bool
) -> None:
    """Whatever their calls and programs are: over the weights, within a turn and an overrun."""
    machine = Machine(
        scheduler(),
        [Client("a", one, weight, fresh=fresh), Client("b", two, other, fresh=fresh_too)],
    )
    for _ in range(400):
        machine.step()
        virtual = (machine.served["a"] / weight, machine.served["b"] / other)
        assert abs(virtual[0] - virtual[1]) <= TURN_MS + OVERRUN_MS / min(weight, other)


@settings(deadline=None, max_examples=40)
@given(LENGTHS, LENGTHS, LENGTHS, st.lists(st.integers(0, 3 * SLOTS), min_size=1, max_size=8))
def test_what_an_idle_tenant_gains_is_three_turns_at_most(
    one: list[int], two: list[int], three: list[int], wanted: list[int]
) -> None:
    """One that comes and goes never has more than one that always waits, but for those turns."""
    comes_and_goes = Client("a", one, wanted=0)
    machine = Machine(scheduler(), [comes_and_goes, Client("b", two), Client("c", three)])
    for number in range(600):
        comes_and_goes.wanted = wanted[number // 60 % len(wanted)]
        machine.step()
        assert machine.served["a"] <= machine.served["b"] + 3 * TURN_MS + OVERRUN_MS


@settings(deadline=None, max_examples=30)
@given(LENGTHS, LENGTHS)
def test_a_new_program_for_each_call_gains_nothing(honest: list[int], gamer: list[int]) -> None:
    """The tenant's calls all enter the best level, and it gets half as before."""
    machine = Machine(scheduler(), [Client("honest", honest), Client("gamer", gamer, fresh=True)])
    for _ in range(400):
        machine.step()
    assert machine.served["gamer"] <= 0.5 * 400 * SLOTS + TURN_MS + OVERRUN_MS


def test_without_shares_it_gains_most() -> None:
    """What the shares are for."""
    clients = [Client("honest", [90]), Client("gamer", [6], fresh=True)]
    machine = Machine(scheduler(None), clients)
    for _ in range(400):
        machine.step()
    assert machine.served["gamer"] > 0.7 * machine.served.total()


@settings(deadline=None, max_examples=30)
@given(LENGTHS, st.lists(LENGTHS, min_size=1, max_size=3), st.integers(1, 3))
def test_the_batch_is_never_idle_while_a_call_waits(
    alone: list[int], others: list[list[int]], wanted: int
) -> None:
    """A tenant that is over its share runs on what the others leave."""
    clients = [Client("greedy", alone)]
    clients += [Client(f"t{n}", steps, wanted=wanted) for n, steps in enumerate(others)]
    machine = Machine(scheduler(), clients)
    for step in range(200):
        machine.step()
        assert machine.served.total() == SLOTS * (step + 1)


def test_a_tenant_that_had_the_machine_to_itself_owes_nothing() -> None:
    """When another comes, both get their shares from then on."""
    late = Client("late", [20], wanted=0)
    machine = Machine(scheduler(), [Client("early", [20]), late])
    for _ in range(500):
        machine.step()
    machine.served.clear()
    late.wanted = 2 * SLOTS
    for _ in range(500):
        machine.step()
    assert abs(machine.served["early"] - machine.served["late"]) <= 3 * TURN_MS + OVERRUN_MS


def test_a_tenant_that_asks_little_goes_first() -> None:
    """Before a tenant that floods, although all of the flood's calls look new."""
    light = Client("light", [5], wanted=1)
    machine = Machine(scheduler(), [Client("flood", [30], fresh=True, wanted=50), light])
    for _ in range(300):
        machine.step()
    waits = [machine.calls.call(call).wait_ms for call in machine.owner if call[0] == "l"]
    assert machine.served["light"] > 250
    assert all(wait <= INTERVAL for wait in waits)


def test_a_worse_tenants_running_call_is_the_victim() -> None:
    """Of whatever level: the turn comes first."""
    s = scheduler()
    s.arrive("new", CallStamp("n", tenant="greedy"))
    s.admit("new")
    for _ in range(int(TURN_MS)):
        s.step(StepWork(decodes=("new",)))
    s.arrive("old", CallStamp("o", priority_ms=1e6, tenant="modest"))
    assert s.call("old").level > s.call("new").level or s.call("old").key < s.call("new").key
    assert s.pass_due
    victims = s.choose_victims(
        [Candidate(s.call("old").key, 0)],
        [Running("new", s.call("new").key, 0, 100)],
        free_slots=0,
        free_tokens=0,
        min_steps_left=1,
    )
    assert victims == ["new"]


def test_promotion_stays_within_the_tenant() -> None:
    """A starving call passes its tenant's calls, not those of a tenant with an earlier turn."""
    s = scheduler()
    old = CallStamp("p", "", 50.0, 500.0, 50.0, tenant="greedy")
    s.arrive("greedy.runs", CallStamp("g", tenant="greedy"))
    s.admit("greedy.runs")
    for _ in range(int(TURN_MS)):
        s.step(StepWork(decodes=("greedy.runs",)))
    s.arrive("modest", CallStamp("m", "", 9.0, 0.0, 9.0, tenant="modest"))
    s.arrive("greedy.new", CallStamp("n", "", 10.0, 0.0, 10.0, tenant="greedy"))
    s.arrive("greedy.old", old)
    assert s.promote_starving() == ["greedy.old"]
    assert s.head(3) == ["modest", "greedy.old", "greedy.new"]


@settings(deadline=None, max_examples=40)
@given(LENGTHS, st.integers(1, 9))
def test_with_one_tenant_everything_is_decided_as_without_shares(
    steps: list[int], wanted: int
) -> None:
    """Levels, tickets, order and who runs, step by step."""
    with_shares = Machine(scheduler(), [Client("a", steps, 0.5, wanted=wanted)])
    without = Machine(scheduler(None), [Client("a", steps, wanted=wanted)])
    for _ in range(200):
        for machine in (with_shares, without):
            machine.step()
        assert with_shares.running == without.running
        assert with_shares.calls.head(99) == without.calls.head(99)
        for call in without.owner:
            one, other = with_shares.calls.call(call), without.calls.call(call)
            assert one.key[1:] == other.key
            assert (one.quantum_left_ms, one.preemptions) == (
                other.quantum_left_ms,
                other.preemptions,
            )


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["push", "remove", "charge"]), st.integers(0, 5), st.integers(0, 40)),
    max_size=80,
)


@given(ACTIONS)
def test_the_order_is_by_turn_level_and_ticket(actions: list[tuple[str, int, int]]) -> None:
    """Read whole or by its head, after any calls and charges of any tenants."""
    queue = SharedQueue(10.0)
    model: dict[str, tuple[str, int, int]] = {}
    for ticket, (action, tenant, number) in enumerate(actions):
        name = f"t{tenant}"
        if action == "push":
            account = queue.open(f"c{ticket}", name, 1.0)
            queue.push((account.turn, number % 3, ticket), f"c{ticket}")
            model[f"c{ticket}"] = (name, number % 3, ticket)
        elif action == "remove" and model:
            call = sorted(model)[number % len(model)]
            queue.remove((0, *model.pop(call)[1:]))
            queue.close(call)
        elif action == "charge":
            account = queue.open(f"x{ticket}", name, 1.0)
            queue.charge(account, number)
            queue.close(f"x{ticket}")
        turn = {account.tenant: account.turn for account in queue.accounts()}
        keys = {call: (turn[name], *rest) for call, (name, *rest) in model.items()}
        expected = sorted(model, key=keys.__getitem__)
        assert list(queue) == expected
        assert queue.head(3) == expected[:3]
        assert len(queue) == len(expected)
        assert queue.first_key() == (keys[expected[0]] if expected else None)


def test_accounts_of_tenants_that_are_gone_are_forgotten() -> None:
    """A million tenants do not stay, and who owes for its turn does."""
    queue = SharedQueue(10.0)
    for number in range(50 * FEW_ACCOUNTS):
        call = f"c{number}"
        account = queue.open(call, f"t{number}", 1.0)
        queue.push((0, 0, number), call)
        queue.remove((0, 0, number))
        queue.charge(account, 25.0)
        queue.close(call)
    kept = [account.tenant for account in queue.accounts()]
    assert len(kept) < 50 * FEW_ACCOUNTS
    assert f"t{50 * FEW_ACCOUNTS - 1}" in kept


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.5, math.nan])
def test_a_weight_that_cannot_be_is_refused(weight: float) -> None:
    """The tenant is named."""
    with pytest.raises(ConfigError, match="'a'"):
        scheduler().arrive("c", CallStamp("p", tenant="a", weight=weight))


@pytest.mark.parametrize("turn_ms", [0.0, -1.0, math.inf])
def test_a_turn_is_a_positive_time(turn_ms: float) -> None:
    with pytest.raises(ConfigError, match="turn"):
        SharedQueue(turn_ms)
