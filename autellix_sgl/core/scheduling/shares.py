"""Weighted shares for tenants: start-time fair queueing of their calls, a turn at a time.

A tenant's *virtual time* is the service its calls were charged, over its weight. It is cut into
turns of equal length, and calls of tenants in an earlier turn go first, whatever their levels. Two
tenants in one turn compete by level, as their programs would without shares:

    virtual time  ... |       turn 7       |       turn 8       | ...
    tenant a                                  *                      waits for b to leave turn 7
    tenant b                    *                                    goes first, alone in turn 7

A turn is left, never entered again, so an order once given changes only when a tenant has had a
turn's service: there is nothing to flap, and a change moves one tenant and not its calls.

**What is promised.** Take two tenants that both have waiting calls from one moment to another. What
each was charged meanwhile, over its weight, differs by at most three turns and what runs on between
two preemption passes. It is at most two turns at the start, since one who comes to wait is put at
most a turn before those who wait already, and one turn and the overrun at the end.

An idle tenant banks no credit but that turn, and a tenant that had the machine to itself owes
nothing for it: virtual time goes on with those who wait (the *front*), or if nobody does, with who
was charged furthest (Goyal, Vin, Cheng: Start-time Fair Queuing, 1996).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush, heapreplace, merge
from itertools import islice

from autellix_sgl.core.calls.account import Account
from autellix_sgl.core.calls.model import Call
from autellix_sgl.core.calls.queue import CallQueue, Key
from autellix_sgl.errors import ConfigError

# A turn by default, in the time that a full batch takes to get its service: a driver multiplies by
# its slots.
SHARE_TURN_MS = 1000.0

# Accounts are looked through for such as can be forgotten when there are so many, or three times
# as many as were kept the last time.
FEW_ACCOUNTS = 64


class SharedQueue:
    """The waiting calls of all tenants in (turn, level, ticket) order, and the tenants' accounts.

    Stands where a :class:`CallQueue` does, with the turn in front of its keys. Each tenant's calls
    are a queue of their own; the tenants are sorted by their first calls. So a call or a turn that
    changes costs one bisection among the tenants, however many calls wait.
    """

    def __init__(self, turn_ms: float) -> None:
        if not 0 < turn_ms < float("inf"):
            raise ConfigError(f"shares: a turn must be a positive number of ms, got {turn_ms}")
        self.turn_ms = turn_ms
        self._accounts: dict[str, Account] = {}
        self._account_of: dict[str, Account] = {}
        # The first keys of the tenants that wait, best first, and whose each waiting ticket is.
        self._firsts: list[Key] = []
        self._waiting: dict[int, Account] = {}
        # The furthest turn that anybody was charged in, and the turn of the front, never less.
        self._furthest = 0
        self._front = 0
        self._sweep_at = FEW_ACCOUNTS

    # -- accounts -------------------------------------------------------------------------------

    def open(self, call_id: str, tenant: str, weight: float) -> Account:
        """A call of *tenant* arrived; its weight counts from now on."""
        if not 0 < weight <= 1:
            raise ConfigError(f"shares: weight of {tenant!r} must be in (0, 1], got {weight}")
        account = self._accounts.get(tenant)
        if account is None:
            self._forget_settled()
            account = self._accounts[tenant] = Account(tenant, weight)
        account.weight = weight
        account.calls += 1
        self._account_of[call_id] = account
        return account

    def close(self, call_id: str) -> None:
        """The call, which does not wait any more, left for good."""
        account = self._account_of.pop(call_id)
        account.calls -= 1

    def charge(self, account: Account, service_ms: float) -> bool:
        """Charge a tenant for its call's step; returns whether it is in another turn now."""
        account.service_ms += service_ms
        account.virtual_ms += service_ms / account.weight
        turn = int(account.virtual_ms // self.turn_ms)
        if turn <= account.turn:
            return False
        account.turn = turn
        self._furthest = max(self._furthest, turn)
        self._place(account)
        return True

    def accounts(self) -> Iterator[Account]:
        """Those with calls here, and those that have not been forgotten yet."""
        return iter(self._accounts.values())

    # -- the queue ------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[str]:
        """Call ids, best first. The queue must not change while it is iterated."""
        begun: list[tuple[Key, str, Iterator[tuple[Key, str]]]] = []
        for first in self._firsts:
            while begun and begun[0][0] < first:
                yield begun[0][1]
                _advance(begun)
            account = self._waiting[first[-1]]
            rest = account.queue.items()
            key, call_id = next(rest)
            heappush(begun, ((account.turn, *key), call_id, rest))
        while begun:
            yield begun[0][1]
            _advance(begun)

    def worst_first(self) -> Iterator[tuple[Key, str]]:
        """Keys and call ids, worst first. The queue must not change while it is iterated."""
        waiting = (self._waiting[first[-1]] for first in self._firsts)
        return merge(*map(_worst_first_of, waiting), reverse=True)

    def push(self, key: Key, call_id: str) -> None:
        """The call begins to wait, at (level, ticket) among its tenant's."""
        account = self._account_of[call_id]
        if account.first is None:
            self._catch_up(account)
        account.queue.push(key[1:], call_id)
        self._waiting[key[-1]] = account
        self._place(account)

    def remove(self, key: Key) -> None:
        """Take the call with that key out; raises KeyError if it does not wait here."""
        account = self._waiting.pop(key[-1])
        account.queue.remove(key[1:])
        self._place(account)

    def before(self, key: Key) -> int:
        """How many calls are before *key*; costs one bisection for each tenant before it."""
        found = 0
        for first in self._firsts[: bisect_left(self._firsts, (key[0] + 1,))]:
            account = self._waiting[first[-1]]
            earlier = account.turn < key[0]
            found += len(account.queue) if earlier else account.queue.before(key[1:])
        return found

    def first_key(self) -> Key | None:
        return self._firsts[0] if self._firsts else None

    def head(self, limit: int) -> list[str]:
        """At most *limit* call ids, best first."""
        return list(islice(self, limit))

    # -- inside ---------------------------------------------------------------------------------

    def _catch_up(self, account: Account) -> None:
        """A tenant comes to wait: what it left unused before the last turn is gone."""
        turn = self._move_front() - 1
        if account.turn < turn:
            account.turn = turn
            account.virtual_ms = turn * self.turn_ms

    def _place(self, account: Account) -> None:
        """Put a tenant where its first waiting call belongs."""
        key = account.queue.first_key()
        first = None if key is None else (account.turn, *key)
        if first == account.first:
            return
        if account.first is not None:
            del self._firsts[bisect_left(self._firsts, account.first)]
        if first is not None:
            insort(self._firsts, first)
        account.first = first

    def _forget_settled(self) -> None:
        """Drop idle accounts that would be caught up with anyway (amortised O(1))."""
        if len(self._accounts) < self._sweep_at:
            return
        settled = self._move_front() - 1
        self._accounts = {
            tenant: account
            for tenant, account in self._accounts.items()
            if account.calls or account.turn >= settled
        }
        self._sweep_at = FEW_ACCOUNTS + 2 * len(self._accounts)

    def _move_front(self) -> int:
        """The turn of who waits best, or if nobody does, of who was charged furthest; no less."""
        now = self._firsts[0][0] if self._firsts else self._furthest
        self._front = max(self._front, now)
        return self._front


class Shares:
    """What tenants' shares, in turns of *turn_ms*, are to a scheduler.

    ``queue`` is for its waiting calls that may be admitted.
    """

    def __init__(self, turn_ms: float) -> None:
        self.queue = SharedQueue(turn_ms)
        self._turned: Callable[[Account, int], None] = _nobody_asks

    def when_turned(self, told: Callable[[Account, int], None]) -> None:
        """*told* is called with each account that enters another turn, and with the turn before."""
        self._turned = told

    def open(self, call: Call) -> None:
        """The call arrived: it gets its tenant's account. Raises ConfigError on a bad weight."""
        call.account = self.queue.open(call.id, call.stamp.tenant, call.stamp.weight)

    def close(self, call: Call) -> None:
        """The call, which does not wait any more, left for good."""
        self.queue.close(call.id)

    def charge(self, call: Call, service_ms: float) -> None:
        """Charge the call's tenant."""
        account = call.account
        assert account is not None, f"{call.id} has no account"
        before = account.turn
        if self.queue.charge(account, service_ms):
            self._turned(account, before)

    def accounts(self) -> Iterable[Account]:
        """Those of the tenants with calls here, and those that have not been forgotten yet."""
        return self.queue.accounts()

    def in_order(self, calls: Iterable[Call]) -> Iterable[Call]:
        """*calls*, which come by level and ticket, by their keys."""
        return sorted(calls, key=lambda call: call.key)


class NoShares:
    """Stands where :class:`Shares` do if tenants have none: no accounts, nobody is charged."""

    def __init__(self) -> None:
        self.queue = CallQueue()

    def when_turned(self, told: Callable[[Account, int], None]) -> None:
        """There are no turns."""

    def open(self, call: Call) -> None:
        """The call arrived."""

    def close(self, call: Call) -> None:
        """The call left."""

    def charge(self, call: Call, service_ms: float) -> None:
        """Nobody is charged."""

    def accounts(self) -> Iterable[Account]:
        """There are none."""
        return ()

    def in_order(self, calls: Iterable[Call]) -> Iterable[Call]:
        """*calls*, which come by level and ticket: these are their keys."""
        return calls


def _nobody_asks(account: Account, before: int) -> None:
    """Until somebody wants to be told of turns."""


def _worst_first_of(account: Account) -> Iterator[tuple[Key, str]]:
    return (((account.turn, *key), call_id) for key, call_id in account.queue.worst_first())


def _advance(begun: list[tuple[Key, str, Iterator[tuple[Key, str]]]]) -> None:
    """The first of the tenants whose calls are being read goes on to its next call."""
    key, _, rest = begun[0]
    following = next(rest, None)
    if following is None:
        heappop(begun)
    else:
        heapreplace(begun, ((key[0], *following[0]), following[1], rest))
