"""The functions SGLang's launcher is given in place of its own.

``run_*`` are the entry points of spawned processes: importable by name, and bound to the program
arguments with ``functools.partial``, which pickles. Importing this module registers our message
types, so every process that unpickles one of them can read what the others send.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from sglang.srt.entrypoints.engine import init_tokenizer_manager
from sglang.srt.managers import scheduler as upstream_scheduler
from sglang.srt.managers.data_parallel_controller import run_data_parallel_controller_process
from sglang.srt.managers.detokenizer_manager import run_detokenizer_process
from sglang.srt.server_args import PortArgs, ServerArgs

from autellix_sgl.config import ProgramArgs
from autellix_sgl.core.memory.program_memory import VALUE
from autellix_sgl.runtime import wire
from autellix_sgl.runtime.launch.activation import activate
from autellix_sgl.runtime.launch.platform import uses_cpu_engine

__all__ = ["init_program_tokenizer_manager", "run_program_detokenizer", "run_program_scheduler"]

assert wire.REPORT_KEY  # imported for its registration of message types


def run_program_scheduler(program_args: ProgramArgs, *args: Any, **kwargs: Any) -> None:
    """One scheduler process: SGLang's, constructing a ProgramScheduler."""
    from autellix_sgl.runtime.scheduler.program_cache import register
    from autellix_sgl.runtime.scheduler.scheduler import ProgramScheduler

    if program_args.eviction == VALUE:
        register()
    activate_scheduler(program_args, ProgramScheduler)
    upstream_scheduler.run_scheduler_process(*args, **kwargs)


def run_stock_scheduler(*args: Any, **kwargs: Any) -> None:
    """One scheduler process with SGLang's own scheduler, on the CPU with our attention backend."""
    if uses_cpu_engine():
        from autellix_sgl.runtime import cpu

        cpu.install()
    upstream_scheduler.run_scheduler_process(*args, **kwargs)


def activate_scheduler(program_args: ProgramArgs, scheduler_class: type[Any]) -> None:
    """Make this process's ``run_scheduler_process`` construct *scheduler_class*, or raise."""
    from autellix_sgl.runtime.scheduler.penalties import OutputPenalties

    def construct(server_args: ServerArgs, port_args: PortArgs) -> Any:
        return scheduler_class(server_args, port_args, program_args=program_args, report=report)

    values: dict[str, Any] = {"scheduler_class": construct, "penalties": OutputPenalties}
    if uses_cpu_engine():
        from autellix_sgl.runtime import cpu
        from autellix_sgl.runtime.cpu.install import HOOKS

        cpu.install()
        values |= HOOKS
    report = activate("scheduler", values)


def activate_main() -> None:
    """Check the installed SGLang, and set up how this process answers and starts others."""
    values: dict[str, Any] = {"anthropic_abort": {"abort": "max_tokens"}}
    if uses_cpu_engine():
        values["controller_process"] = run_program_controller
    activate("main", values)


def run_program_controller(*args: Any, **kwargs: Any) -> None:
    """The data-parallel controller's process, SGLang's own, waiting for its messages."""
    from autellix_sgl.runtime.cpu import controller

    activate("controller", {"controller_wait": controller.sock_recv})
    run_data_parallel_controller_process(*args, **kwargs)


def run_program_detokenizer(*args: Any, **kwargs: Any) -> None:
    """The detokenizer process, SGLang's own; by this way in, the platform is set up first."""
    run_detokenizer_process(*args, **kwargs)


def init_program_tokenizer_manager(
    program_args: ProgramArgs, server_args: ServerArgs, port_args: PortArgs
) -> Any:
    """The main process's tokenizer manager, and its template manager, as upstream returns them."""
    from autellix_sgl.runtime.tokenizer.manager import ProgramTokenizerManager

    return init_tokenizer_manager(
        server_args,
        port_args,
        TokenizerManagerClass=partial(ProgramTokenizerManager, program_args=program_args),
    )
