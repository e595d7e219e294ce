"""SGLang's offline Engine, without HTTP, over the same process table and schedulers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from sglang.srt.arg_groups.model_override_base import resolving_view
from sglang.srt.entrypoints.engine import Engine
from sglang.srt.plugins import load_plugins
from sglang.srt.server_args import ServerArgs

from autellix_sgl.config import AUTO, PROGRAM_CACHE, ProgramArgs
from autellix_sgl.core.memory.program_memory import VALUE
from autellix_sgl.errors import UnknownProgram
from autellix_sgl.runtime.http.program_models import ProgramModel
from autellix_sgl.runtime.identity import identity_of_program
from autellix_sgl.runtime.launch import processes
from autellix_sgl.runtime.launch.activation import check_upstream
from autellix_sgl.runtime.launch.calibration import calibrate
from autellix_sgl.runtime.launch.support import check_supported
from autellix_sgl.runtime.tokenizer.call_progress import LOCAL_IDENTITY
from autellix_sgl.runtime.tokenizer.manager import ProgramTokenizerManager


class ProgramEngine(Engine):  # type: ignore[misc]
    """SGLang's Engine with programs; keyword arguments beside *program_args* are SGLang's.

    Raises ConfigError for a mode that does not fit, ActivationError if SGLang is not the version
    we know.
    """

    def __init__(self, *, program_args: ProgramArgs, **kwargs: Any) -> None:
        load_plugins()
        ours = {"radix_cache_backend": PROGRAM_CACHE} if program_args.eviction == VALUE else {}
        server_args = ServerArgs(**{"log_level": "error", **ours, **kwargs})
        server_args.resolve_once()
        self.program_args = program_args
        self.run_detokenizer_process_func = processes.run_program_detokenizer
        if program_args.stock:
            self.run_scheduler_process_func = processes.run_stock_scheduler
        else:
            check_supported(resolving_view(server_args), program_args)
            check_upstream()
            self.init_tokenizer_manager_func = partial(
                processes.init_program_tokenizer_manager, program_args
            )
            self.run_scheduler_process_func = partial(processes.run_program_scheduler, program_args)
        super().__init__(server_args=server_args)
        if not program_args.stock and program_args.cost_model == AUTO:
            self.loop.run_until_complete(calibrate(self.tokenizer_manager))

    def generate(self, *args: Any, program: Any = None, **kwargs: Any) -> Any:
        """SGLang's ``generate``; *program* is as the field of a request's body."""
        with _identified(program):
            return super().generate(*args, **kwargs)

    async def async_generate(self, *args: Any, program: Any = None, **kwargs: Any) -> Any:
        """SGLang's ``async_generate``; *program* is as the field of a request's body."""
        with _identified(program):
            return await super().async_generate(*args, **kwargs)

    def programs(self) -> list[dict[str, Any]]:
        """The live programs, oldest first, with the fields that ``/v1/programs`` shows."""
        return [ProgramModel.of(program).model_dump() for program in self._manager.table]

    def end_program(self, program: str) -> None:
        """Forget the program, now or when its last call has left; nothing if it is not live."""
        self._on_loop(self._end, program)

    def abort_program(self, program: str) -> None:
        """Abort all calls that the program has in the system."""
        self._on_loop(self._abort, program)

    def _end(self, program: str) -> None:
        if program in self._manager.table:
            self._manager.table.end(program)

    def _abort(self, program: str) -> None:
        try:
            self._manager.abort_program(self._manager.table.program(program))
        except UnknownProgram:
            return

    def _on_loop(self, function: Callable[[str], None], program: str) -> None:
        """Run *function* where the table is used; at once, unless that is another thread."""
        try:
            elsewhere = asyncio.get_running_loop() is not self.loop
        except RuntimeError:
            elsewhere = True
        if elsewhere and self.loop.is_running():
            self.loop.call_soon_threadsafe(function, program)
        else:
            function(program)

    @property
    def _manager(self) -> ProgramTokenizerManager:
        manager = self.tokenizer_manager
        if not isinstance(manager, ProgramTokenizerManager):
            raise RuntimeError("there are no programs with program_policy='none'")
        return manager


@contextmanager
def _identified(program: object) -> Iterator[None]:
    """Calls that are started inside are of *program*; raises InvalidProgram."""
    token = LOCAL_IDENTITY.set(identity_of_program(program))
    try:
        yield
    finally:
        LOCAL_IDENTITY.reset(token)
