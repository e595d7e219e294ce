"""A program made into another: shorter for a small model, or with other gaps."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from autellix_sgl.errors import ConfigError
from autellix_sgl.workloads.distributions import QuantileTable
from autellix_sgl.workloads.model import TOOL, Interrupt, ProgramTrace, TracedCall


def scaled(program: ProgramTrace, factor: float) -> ProgramTrace:
    """Every length times *factor*, at least one token; what prompts repeat stays repeated.

    One factor for all lengths keeps their proportions, so a small model on a small machine meets
    the same shape of load.
    """
    if not 0 < factor < float("inf"):
        raise ConfigError(f"scale: the factor must be positive, got {factor}")
    if factor == 1:
        return program
    calls: list[TracedCall] = []
    for call in program.calls:
        calls.append(_scaled_call(call, factor, program, calls))
    return replace(program, calls=tuple(calls))


def _scaled_call(
    call: TracedCall, factor: float, program: ProgramTrace, done: list[TracedCall]
) -> TracedCall:
    shared = round(call.shared_tokens * factor)
    if call.extends is not None:
        now = done[call.extends].context_tokens
        whole = call.shared_tokens == program.calls[call.extends].context_tokens
        shared = now if whole else min(shared, now)
    return replace(
        call,
        shared_tokens=shared,
        new_tokens=max(1, round(call.new_tokens * factor)) if call.new_tokens else int(shared == 0),
        output_tokens=max(1, round(call.output_tokens * factor)),
    )


def with_interrupts(program: ProgramTrace, factor: float) -> ProgramTrace:
    """Every interrupt's duration times *factor*; 0 removes them."""
    if not 0 <= factor < float("inf"):
        raise ConfigError(f"interrupts: the factor must be >= 0, got {factor}")
    if factor == 1:
        return program
    return replace(program, calls=tuple(_with_interrupt(call, factor) for call in program.calls))


def _with_interrupt(call: TracedCall, factor: float) -> TracedCall:
    if call.interrupt is None:
        return call
    if factor == 0:
        return replace(call, interrupt=None)
    return replace(
        call, interrupt=Interrupt(call.interrupt.kind, call.interrupt.duration_ms * factor)
    )


def with_tool_times(program: ProgramTrace, times_s: QuantileTable, rng: Random) -> ProgramTrace:
    """Each tool takes a time drawn from *times_s*, in seconds; humans answer at once."""
    return replace(
        program, calls=tuple(_with_tool_time(call, times_s, rng) for call in program.calls)
    )


def _with_tool_time(call: TracedCall, times_s: QuantileTable, rng: Random) -> TracedCall:
    if call.interrupt is None or call.interrupt.kind != TOOL:
        return replace(call, interrupt=None)
    return replace(call, interrupt=Interrupt(TOOL, times_s.sample(rng) * 1e3))
