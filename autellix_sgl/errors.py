"""Every error this package raises on purpose.

    AutellixError
    ├── ConfigError        a flag, a file or a combination of them makes no sense
    ├── ModelError         the default model cannot be prepared
    ├── InvalidProgram     a request names its program in a way that cannot be used
    ├── UnknownProgram     no live program has that id
    ├── NoReplica          no replica is left that could take a call
    ├── UnknownDefinition  a name is not that of one definition of SGLang's that is relied on
    └── UnknownCall        the scheduler was told of a call it does not have (a bug, never input)

    ActivationError        our scheduler could not be put in place; a BaseException on purpose

A server answers InvalidProgram and NoReplica with HTTP 400 and UnknownProgram with HTTP 404.
"""

from __future__ import annotations


class AutellixError(Exception):
    """The root; catch it to handle whatever this package refuses."""


class ConfigError(AutellixError):
    """A flag, a file or a combination of flags makes no sense; the message names it."""


class ModelError(AutellixError):
    """The default model cannot be prepared; the message says what is missing."""


class InvalidProgram(AutellixError, ValueError):
    """A request's program fields cannot be used. ``field`` names the one at fault."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class UnknownProgram(AutellixError, LookupError):
    """No live program has that id: it never was, ended, or its lease ran out."""

    def __init__(self, program_id: str) -> None:
        super().__init__(f"no live program has the id {program_id!r}")
        self.program_id = program_id


class NoReplica(AutellixError, ValueError):
    """No replica can take the call: all of them, or the one that was asked for, have died."""


class UnknownDefinition(AutellixError, LookupError):
    """A name does not mean exactly one definition of SGLang's that is relied on."""


class UnknownCall(AutellixError, LookupError):
    """An event about a call that is not in the state the event needs."""

    def __init__(self, call_id: str, problem: str) -> None:
        super().__init__(f"call {call_id!r} {problem}")
        self.call_id = call_id


class ActivationError(BaseException):
    """The program scheduler is not in effect, so the server must not start.

    Not an Exception: SGLang's plugin loader and several of its start-up paths log an Exception and
    go on with the stock scheduler, which is the one thing that must not happen silently.
    """
