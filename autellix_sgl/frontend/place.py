"""Where in which program is this code running? A context variable knows.

Asyncio tasks and forked processes inherit it by themselves; `carry` and `Executor` take it into
threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

PROGRAM_HEADER = "x-program-id"
THREAD_HEADER = "x-program-thread"
PARENT_HEADER = "x-program-parent"
EXPECTED_CALLS_HEADER = "x-program-expected-calls"
EXPECTED_TOKENS_HEADER = "x-program-expected-tokens"
# SGLang's gateway sends requests with the same key to the same server. It passes this header on and
# none of the above, so the server behind it knows the program by this one.
ROUTING_HEADER = "x-smg-routing-key"
# A response says what its program has had, and a later request says it again, to a server that may
# be another one. The gateway passes on what begins as the second name does.
SERVICE_HEADER = "x-program-service-ms"
CARRIED_SERVICE_HEADER = "x-request-id-program-service-ms"


class Listener(Protocol):
    """A server, or an engine in this process, that has to learn of a program's end."""

    @property
    def url(self) -> str:
        """Tells one from another."""

    def state(self, program: str) -> dict[str, Any] | None:
        """What it has on record of a live program."""

    def abort(self, program: str) -> None:
        """Abort the program's calls."""

    def end(self, program: str) -> None:
        """Forget the program when the last of its calls has left."""


class Owner(Protocol):
    """The object of a program, as its places and clients know it."""

    ended: bool
    place: Place
    # By a server's address, what the run has had there (behind a gateway: at all of its servers).
    service_ms: dict[str, float]

    def used(self, server: Listener) -> None:
        """A call of the program was made at *server*, which has to learn of its end."""


@dataclass(frozen=True, slots=True)
class Place:
    """A program, a thread of it (empty: the main one), and the program it is a child of.

    ``root`` is the outermost program, None if that is this one. ``expected_calls`` and
    ``expected_tokens`` are what the outermost one is expected to ask for in all.
    """

    program: str
    thread: str = ""
    parent: str | None = None
    root: str | None = None
    expected_calls: int | None = None
    expected_tokens: int | None = None
    owner: Owner | None = field(default=None, repr=False, compare=False)

    def headers(self) -> dict[str, str]:
        """What a request made here says of itself."""
        headers = {PROGRAM_HEADER: self.program, ROUTING_HEADER: self.root or self.program}
        if self.thread:
            headers[THREAD_HEADER] = self.thread
        if self.parent is not None:
            headers[PARENT_HEADER] = self.parent
        if self.expected_calls is not None:
            headers[EXPECTED_CALLS_HEADER] = str(self.expected_calls)
        if self.expected_tokens is not None:
            headers[EXPECTED_TOKENS_HEADER] = str(self.expected_tokens)
        return headers

    def as_field(self) -> dict[str, str | int]:
        """The same as the ``program`` field of a body."""
        said: dict[str, str | int] = {"id": self.program}
        if self.thread:
            said["thread"] = self.thread
        if self.parent is not None:
            said["parent"] = self.parent
        if self.expected_calls is not None:
            said["expected_calls"] = self.expected_calls
        if self.expected_tokens is not None:
            said["expected_tokens"] = self.expected_tokens
        return said

    def within(self, thread: str) -> Place:
        """A thread of the program below this place."""
        return replace(self, thread=f"{self.thread}.{thread}" if self.thread else thread)


CURRENT: ContextVar[Place | None] = ContextVar("autellix_place", default=None)


def current() -> Place | None:
    """The place this code runs at, None outside of every program."""
    return CURRENT.get()


def carry(function: Callable[P, T]) -> Callable[P, T]:
    """*function* bound to the place where this is called, for a thread that is to run it.

    Each call runs in a copy of the context as it is now, so it may be run several times at once.
    """
    context = copy_context()

    @wraps(function)
    def carried(*args: P.args, **kwargs: P.kwargs) -> T:
        return context.copy().run(function, *args, **kwargs)

    return carried


class Executor(ThreadPoolExecutor):
    """A ThreadPoolExecutor whose tasks run at the place where they were submitted."""

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule ``function(*args, **kwargs)``."""
        return super().submit(carry(function), *args, **kwargs)
