"""Run our Scheduler subclass in a scheduler process."""

from __future__ import annotations

import importlib
from typing import Any

from autellix_sgl.patches.record import Patch, Reliance

MODULE = "sglang.srt.managers.scheduler"
BATCH = "sglang.srt.managers.schedule_batch"
POLICY = "sglang.srt.managers.schedule_policy"
COMMON = "sglang.srt.mem_cache.common"
BUDGET = "sglang.srt.mem_cache.prefill_budget"
RESULTS = "sglang.srt.managers.scheduler_components.batch_result_processor"
STREAMER = "sglang.srt.managers.scheduler_components.output_streamer"
TIMES = "sglang.srt.observability.req_time_stats"

OURS = "runtime/scheduler/scheduler.py"
PREEMPTION_PASS = "runtime/scheduler/preemption_pass.py"
PREEMPTION = "runtime/scheduler/preemption.py"
WAITING = "runtime/scheduler/waiting.py"
LEDGER = "runtime/scheduler/ledger.py"
DEPARTURES = "runtime/scheduler/departures.py"

DEPENDS = (
    # -- the loop and the step
    Reliance(
        f"{MODULE}:Scheduler.event_loop_overlap",
        f"{OURS}, {PREEMPTION}",
        "a step is planned while one result at most is in flight, that of the step before",
    ),
    Reliance(
        f"{MODULE}:Scheduler.get_next_batch_to_run",
        f"{OURS}, {PREEMPTION_PASS}",
        "the last prefill is merged and its chunk stashed before admission, and admission comes "
        "before the decode step, in every step; what has finished leaves the batch, and a full "
        "batch counts as one with room then",
    ),
    Reliance(
        f"{MODULE}:Scheduler._create_generation_req",
        f"{OURS}, {LEDGER}",
        "every request that is made for a message comes from here, with its message",
    ),
    # -- arriving and leaving
    Reliance(
        f"{MODULE}:Scheduler._add_request_to_queue",
        f"{OURS}, {WAITING}",
        "an arrival and a return both append to the waiting queue; the queue's limit is asked "
        "about before",
    ),
    Reliance(
        f"{MODULE}:Scheduler.abort_request",
        f"{OURS}, {DEPARTURES}",
        "what has to be ended where: replaced for a single call, and used for all at once",
    ),
    Reliance(
        f"{MODULE}:Scheduler.retire_unadmitted_request",
        DEPARTURES,
        "ends a request that is in no batch with to_finish, as the output streamer ends others",
    ),
    Reliance(
        f"{MODULE}:Scheduler.collect_inflight_reqs",
        f"{OURS}, {DEPARTURES}",
        "all requests that run or have a result in flight, the chunked one aside",
    ),
    Reliance(
        f"{TIMES}:SchedulerReqTimeStats.set_wait_queue_entry_time",
        LEDGER,
        "kept anew each time a request begins to wait",
    ),
    Reliance(
        f"{MODULE}:Scheduler.process_pending_chunked_abort",
        OURS,
        "the aborted chunk leaves here, finished, and without a result",
    ),
    Reliance(
        f"{MODULE}:Scheduler.pause_generation",
        f"{OURS}, {LEDGER}",
        "retracted requests come back by the queue, one after another",
    ),
    # -- admission
    Reliance(
        f"{MODULE}:Scheduler._get_new_batch_prefill_raw",
        f"{OURS}, {PREEMPTION_PASS}, {WAITING}",
        "the waiting queue is walked in its order and replaced by what is left of it; the chunked "
        "request goes first; a batch counts as full when slots or the pool end admission",
    ),
    Reliance(
        f"{MODULE}:Scheduler.get_num_allocatable_reqs",
        f"{OURS}, {PREEMPTION_PASS}",
        "how many more calls a batch takes: the free slots",
    ),
    Reliance(
        f"{POLICY}:SchedulePolicy.calc_priority",
        "runtime/scheduler/schedule_policy.py",
        "the queue is sorted in place, so that sorting it by rank afterwards keeps the order "
        "among equals",
    ),
    Reliance(
        f"{POLICY}:PrefillAdder.add_one_req",
        PREEMPTION_PASS,
        "what a candidate asks of the pool: what is not matched, its output up to the clip, a page",
    ),
    Reliance(
        f"{POLICY}:PrefillAdder._get_running_request_total_token_offset",
        PREEMPTION_PASS,
        "what admission sets aside for the tokens that a running request may still make",
    ),
    Reliance(
        f"{BATCH}:Req.init_next_round_input",
        f"{PREEMPTION}, {WAITING}",
        "a request that comes back is matched and prefilled with its prompt and its output",
    ),
    Reliance(
        "sglang.srt.managers.mm_utils:extend_mrope_positions_for_retracted_request",
        PREEMPTION,
        "positions are extended by the output at each look at a request that was retracted",
    ),
    Reliance(
        f"{BUDGET}:PrefillBudget",
        PREEMPTION_PASS,
        "remaining_total is what admission finds free or evictable",
    ),
    Reliance(
        f"{BUDGET}:SWAPrefillBudget",
        f"{PREEMPTION_PASS}, runtime/scheduler/room.py",
        "remaining_swa is that of the windows' pool, in which a request takes its window at most",
    ),
    Reliance(
        f"{COMMON}:match_kv_cache",
        f"{PREEMPTION_PASS}, {LEDGER}, runtime/scheduler/recomputation.py",
        "prefix_len and num_matched_prefix_tokens say what the tree has of a request",
    ),
    # -- taking out
    Reliance(
        f"{COMMON}:release_kv_cache",
        PREEMPTION,
        "with a checkpoint the tree keeps what was computed, and the row, the lock and the rest "
        "are given back; not for an unfinished request in a tree with recurrent state",
    ),
    Reliance(
        "sglang.srt.mem_cache.unified_radix_cache:UnifiedRadixCache.checkpoint_into_tree",
        f"{PREEMPTION}, runtime/scheduler/program_cache.py",
        "an unfinished request's KV becomes tree nodes up to its last computed token, and its "
        "lock moves to the node where they end",
    ),
    Reliance(
        f"{BATCH}:Req.reset_for_retract",
        PREEMPTION,
        "keeps the output, forgets all that belongs to a row, and marks the request retracted",
    ),
    Reliance(
        f"{RESULTS}:SchedulerBatchResultProcessor.process_batch_result_prefill",
        f"{PREEMPTION}, {PREEMPTION_PASS}",
        "a result in flight of a retracted request is skipped; one cursor goes through the "
        "log-probabilities of all others",
    ),
    Reliance(
        f"{RESULTS}:SchedulerBatchResultProcessor.process_batch_result_decode",
        PREEMPTION,
        "a result in flight of a retracted request is skipped",
    ),
    Reliance(
        f"{BATCH}:ScheduleBatch.filter_batch",
        f"{PREEMPTION}, {PREEMPTION_PASS}",
        "keeps the given requests with all their tensors; without any given, those not finished",
    ),
    Reliance(
        "sglang.srt.layers.sampler:multinomial_with_seed",
        PREEMPTION,
        "a token that is sampled again is the same: a function of seed, position and logits",
    ),
    # -- memory pressure
    Reliance(
        f"{MODULE}:Scheduler.update_running_batch",
        f"{OURS}, {PREEMPTION_PASS}",
        "changes the batch in place; retracts only if the next step does not fit, and never while "
        "a result in flight ends somebody",
    ),
    Reliance(
        f"{MODULE}:Scheduler._reqs_finishing_inflight",
        PREEMPTION_PASS,
        "those that update_running_batch leaves out of the step",
    ),
    Reliance(
        f"{BATCH}:ScheduleBatch.check_decode_mem",
        PREEMPTION_PASS,
        "whether the next step fits the pool, after evicting from the tree",
    ),
    Reliance(
        f"{BATCH}:ScheduleBatch.retract_decode",
        OURS,
        "a request that cannot fit even alone leaves with to_finish set and its KV given back",
    ),
    # -- out
    Reliance(
        f"{STREAMER}:SchedulerOutputStreamer._stream_output_generation",
        "runtime/scheduler/output_streamer.py",
        "one report for each request that is emitted, in their order; a finished one is emitted "
        "once",
    ),
)


def apply(scheduler_class: Any) -> None:
    """Let ``run_scheduler_process`` of this process construct *scheduler_class*."""
    setattr(importlib.import_module(MODULE), "Scheduler", scheduler_class)  # noqa: B010


def in_effect(scheduler_class: Any) -> bool:
    """Whether it will."""
    return getattr(importlib.import_module(MODULE), "Scheduler", None) is scheduler_class


PATCH = Patch(
    name="scheduler_class",
    target=f"{MODULE}:run_scheduler_process",
    kind="replace a module global, in our scheduler processes only",
    reason=(
        "run_scheduler_process names the class it constructs as a module global. The process "
        "function itself is replaceable by a launcher argument, but holds start-up and shut-down "
        "code that would have to be copied."
    ),
    upstream="none",
    remove_when="SGLang takes the scheduler class as an argument, as it takes the tokenizer's",
    since="0.5.21",
    depends=DEPENDS,
    apply=apply,
    in_effect=in_effect,
)
