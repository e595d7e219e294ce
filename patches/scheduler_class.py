"""Run our Scheduler subclass in a scheduler process."""

from __future__ import annotations

import importlib
from typing import Any

from autellix_sgl.patches.record import Patch

MODULE = "sglang.srt.managers.scheduler"
RESULTS = "sglang.srt.managers.scheduler_components.batch_result_processor"
STREAMER = "sglang.srt.managers.scheduler_components.output_streamer"

# Overridden by the subclass, or assumed by what it overrides.
METHODS = (
    "__init__",
    "init_running_status",
    "init_schedule_policy",
    "init_output_streamer",
    "get_output_streamer_class",
    "init_request_dispatcher",
    "run_event_loop",
    "event_loop_normal",
    "event_loop_overlap",
    "handle_generate_request",
    "_add_request_to_queue",
    "_abort_on_queued_limit",
    "process_pending_chunked_abort",
    "stash_chunked_request",
    "get_next_batch_to_run",
    "get_num_allocatable_reqs",
    "get_new_batch_prefill",
    "_get_new_batch_prefill_raw",
    "update_running_batch",
    "run_batch",
    "process_batch_result",
    "abort_request",
    "pause_generation",
    "is_fully_idle",
    "on_idle",
    "_create_generation_req",
    "_reqs_finishing_inflight",
    "init_internal_state",
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
    depends=(
        *(f"{MODULE}:Scheduler.{method}" for method in METHODS),
        "sglang.srt.managers.schedule_batch:Req.reset_for_retract",
        "sglang.srt.managers.schedule_batch:Req.init_next_round_input",
        "sglang.srt.managers.schedule_batch:ScheduleBatch.filter_batch",
        "sglang.srt.managers.schedule_batch:ScheduleBatch.mix_with_running",
        "sglang.srt.managers.schedule_batch:ScheduleBatch.prepare_for_extend",
        "sglang.srt.managers.schedule_batch:ScheduleBatch.retract_decode",
        "sglang.srt.managers.schedule_batch:ScheduleBatch.check_decode_mem",
        "sglang.srt.managers.schedule_policy:SchedulePolicy.calc_priority",
        "sglang.srt.managers.schedule_policy:PrefillAdder.add_one_req",
        "sglang.srt.managers.schedule_policy:PrefillAdder.add_chunked_req",
        "sglang.srt.mem_cache.common:release_kv_cache",
        f"{RESULTS}:SchedulerBatchResultProcessor.process_batch_result_prefill",
        f"{RESULTS}:SchedulerBatchResultProcessor.process_batch_result_decode",
        f"{STREAMER}:SchedulerOutputStreamer._stream_output_generation",
    ),
    apply=apply,
    in_effect=in_effect,
)
