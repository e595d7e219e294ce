"""How much of the server a call, a program and a workload take, from the trace alone."""

from __future__ import annotations

from collections.abc import Sequence

from autellix_sgl.sim.hardware import ServerModel
from autellix_sgl.workloads import ProgramTrace, TracedCall


def batch_of(programs: Sequence[ProgramTrace], server: ServerModel) -> float:
    """How many calls decode at once when the server is full: slots, or what the KV pool holds."""
    calls = [call for program in programs for call in program.calls]
    tokens = sum(call.output_tokens for call in calls)
    context = sum(_mean_context(call) * call.output_tokens for call in calls) / tokens
    return max(1.0, min(server.slots, server.kv_tokens / context))


def call_ms(call: TracedCall, server: ServerModel, batch: float) -> float:
    """The server's time a call takes up: its prefill, and its share of its decode steps.

    What it repeats counts as cached if the server caches. The step that ends a prefill costs
    no base of its own when prefills ride with decodes.
    """
    cost = server.cost
    cached = call.shared_tokens if server.prefix_cache else 0
    prefill = max(1, call.prompt_tokens - cached) * cost.per_prefill_token_ms
    if not server.mixed:
        prefill += cost.base_ms
    decode = (
        cost.base_ms / batch
        + cost.per_decode_call_ms
        + cost.per_context_token_ms * _mean_context(call)
    )
    return prefill + call.output_tokens * decode


def service_ms(call: TracedCall, server: ServerModel, batch: float) -> float:
    """What the core will charge the call for, about: the steps it sits in, in a full batch."""
    cost = server.cost
    prefill = cost.base_ms + cost.per_prefill_token_ms * call.new_tokens
    step = cost.base_ms + batch * (
        cost.per_decode_call_ms + cost.per_context_token_ms * _mean_context(call)
    )
    return prefill + call.output_tokens * step


def capacity_per_s(programs: Sequence[ProgramTrace], server: ServerModel) -> float:
    """The program rate at which the server, kept full, is just saturated.

    One second over the mean program's work. A stream at a higher rate must queue under any
    scheduler; how it queues is what the schedulers differ in.
    """
    batch = batch_of(programs, server)
    work = sum(call_ms(call, server, batch) for program in programs for call in program.calls)
    return 1e3 * len(programs) / work


def _mean_context(call: TracedCall) -> float:
    return call.prompt_tokens + call.output_tokens / 2
