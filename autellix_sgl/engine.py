"""``autellix_sgl.Engine``: SGLang's offline Engine whose calls belong to programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autellix_sgl.config import LOAD_BALANCE_FLAG, PLACEMENT_CHOICES, ProgramArgs, program_flags
from autellix_sgl.errors import ConfigError
from autellix_sgl.frontend.place import Place, current
from autellix_sgl.frontend.programs import Program
from autellix_sgl.runtime.launch.engine import ProgramEngine
from autellix_sgl.server_defaults import server_defaults

PREFIX = "program_"
ARGUMENTS = frozenset(PREFIX + name for name in program_flags())

ProgramLike = str | Mapping[str, Any] | Program | None


class Engine(ProgramEngine):
    """SGLang's Engine in which ``generate`` and ``async_generate`` take a ``program``.

    That is an id, a mapping as the ``program`` field of a request's body, or the object of
    `autellix_sgl.program`. Without one, calls made inside of an `autellix_sgl.program` block are
    that program's, and others are programs of their own.

    Keyword arguments are SGLang's, and our flags with underscores: ``program_policy="plas"``.
    Without ``model_path`` the default model is used, and on a machine without a GPU what SGLang's
    CPU engine needs is added, as the server does it. Raises ConfigError for arguments that make no
    sense.
    """

    def __init__(self, **kwargs: Any) -> None:
        ours = {name: kwargs.pop(name) for name in ARGUMENTS & kwargs.keys()}
        program_args = ProgramArgs(**{name.removeprefix(PREFIX): ours[name] for name in ours})
        program_args.initial_cost_model()  # a bad file is found now, not in a scheduler process
        if "server_args" in kwargs:
            raise TypeError("Engine takes SGLang's arguments one by one, not server_args")
        if kwargs.get("load_balance_method") in PLACEMENT_CHOICES:
            raise ConfigError(
                f"{LOAD_BALANCE_FLAG} {kwargs['load_balance_method']} needs a server: replicas are "
                "watched from its event loop. Use one of SGLang's own methods."
            )
        super().__init__(program_args=program_args, **{**_gaps(kwargs), **kwargs})

    def generate(self, *args: Any, program: ProgramLike = None, **kwargs: Any) -> Any:
        """SGLang's ``generate``, for *program*; raises InvalidProgram if that cannot be one."""
        return super().generate(*args, program=self._field(program), **kwargs)

    async def async_generate(self, *args: Any, program: ProgramLike = None, **kwargs: Any) -> Any:
        """SGLang's ``async_generate``, for *program*; raises InvalidProgram."""
        return await super().async_generate(*args, program=self._field(program), **kwargs)

    def _field(self, program: ProgramLike) -> Mapping[str, Any] | None:
        """*program* as the field of a body; the object it came from will tell of its end here."""
        if isinstance(program, str):
            return {"id": program}
        place = program.here if isinstance(program, Program) else program
        if place is None:
            place = current()
        if not isinstance(place, Place):
            return place
        if place.owner is not None:
            place.owner.used(_Local(self))
        return place.as_field()


class _Local:
    """This engine as a program's object knows it: somebody to tell of the end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.url = f"engine:{id(engine)}"

    def state(self, program: str) -> dict[str, Any] | None:
        states = self._engine.programs()
        return next((state for state in states if state["id"] == program), None)

    def abort(self, program: str) -> None:
        self._engine.abort_program(program)

    def end(self, program: str) -> None:
        self._engine.end_program(program)


def _gaps(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the server would add to these flags, as keyword arguments."""
    words = [word for name, value in kwargs.items() for word in (_flag(name), str(value))]
    filled: dict[str, Any] = {}
    name = ""
    for word in server_defaults(words):
        if word.startswith("--"):
            name = word.removeprefix("--").replace("-", "_")
            filled[name] = True
        else:
            filled[name] = int(word) if word.isdecimal() else word
    return filled


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
