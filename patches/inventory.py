"""Every patch, and every upstream definition the package relies on."""

from __future__ import annotations

from autellix_sgl.patches import (
    controller_process,
    controller_wait,
    cpu_last_loc,
    scheduler_class,
)
from autellix_sgl.patches.record import Patch

PATCHES: tuple[Patch, ...] = (
    scheduler_class.PATCH,
    cpu_last_loc.PATCH,
    controller_process.PATCH,
    controller_wait.PATCH,
)

CONTROL = "sglang.srt.managers.tokenizer_control_mixin"

# Overridden through seams that need no patch: the launcher's own arguments.
TOKENIZER_MANAGER_METHODS = tuple(
    f"sglang.srt.managers.tokenizer_manager:TokenizerManager.{method}"
    for method in (
        "__init__",
        "generate_request",
        "_init_req_state",
        "_send_one_request",
        "_send_batch_request",
        "_handle_batch_output",
        "_handle_batch_request",
        "_handle_abort_req",
        "_release_req_states_on_failure",
        "abort_request",
        "update_request_meta_info",
        "auto_create_handle_loop",
    )
)
# What placement relies on: routing by the request's own field, and control requests that can be
# told to expect fewer answers.
DATA_PARALLEL = (
    *(
        f"sglang.srt.managers.data_parallel_controller:DataParallelController.{method}"
        for method in (
            "launch_dp_schedulers",
            "dispatching_with_trace",
            "maybe_external_dp_rank_routing",
            "round_robin_scheduler",
            "update_active_ranks",
            "send_control_message",
        )
    ),
    "sglang.srt.managers.communicator:FanOutCommunicator",
    f"{CONTROL}:TokenizerControlMixin.update_control_communicator_fan_out",
    "sglang.srt.managers.tokenizer_manager:TokenizerManager.update_active_ranks",
    "sglang.srt.managers.tokenizer_manager:TokenizerManager._handle_abort_finish_reason",
)
# Who is let in where, and what the server needs to call itself, on a server with tenants.
AUTHENTICATION = (
    "sglang.srt.utils.auth:decide_request_auth",
    "sglang.srt.utils.auth:add_api_key_middleware",
    "sglang.srt.entrypoints.http_server:_setup_and_run_http_server",
    "sglang.srt.entrypoints.http_server:_execute_server_warmup",
    "sglang.srt.runtime_context:_ConfigBag.override",
)
# What a radix cache of our own name is made of.
RADIX_CACHE = (
    "sglang.srt.mem_cache.registry:create_tree_cache",
    "sglang.srt.mem_cache.registry:create_unified_radix_cache",
    "sglang.srt.mem_cache.registry:register_radix_cache_backend",
    "sglang.srt.mem_cache.registry:TreeCacheBuildContext",
    "sglang.srt.mem_cache.evict_policy:EvictionStrategy",
    "sglang.srt.mem_cache.unified_cache.tree_core_registry:create_tree_core",
    "sglang.srt.mem_cache.unified_cache.tree_core_registry:register_tree_core_backend",
    "sglang.srt.mem_cache.unified_cache.tree_core_registry:select_tree_core_backend",
    "sglang.srt.mem_cache.unified_cache.unified_tree_core:UnifiedTreeNode",
    "sglang.srt.mem_cache.unified_cache.unified_tree_core:UnifiedTreeCore.__init__",
    "sglang.srt.mem_cache.unified_cache.unified_tree_core:UnifiedTreeCore._split_node",
    "sglang.srt.mem_cache.unified_cache.unified_tree_core:UnifiedTreeCore.node_by_id",
    "sglang.srt.mem_cache.unified_cache.components.full:FullComponent._evict_device_start",
    "sglang.srt.mem_cache.unified_cache.components.full:FullComponent._evict_device_next_node",
    "sglang.srt.mem_cache.unified_radix_cache:UnifiedRadixCache.__init__",
    "sglang.srt.mem_cache.unified_radix_cache:UnifiedRadixCache.checkpoint_into_tree",
)
# A question of ours goes to every scheduler, and is answered, as SGLang's for the internal state.
QUESTIONS = (
    f"{CONTROL}:TokenizerControlMixin.get_internal_state",
    f"{CONTROL}:TokenizerControlMixin.init_communicators",
    "sglang.utils:TypeBasedDispatcher.__call__",
)
MESSAGES = (
    "sglang.srt.managers.tokenizer_manager:TokenizerManager._dispatch_to_scheduler",
    "sglang.srt.managers.io_struct:BaseReq",
    "sglang.utils:TypeBasedDispatcher",
    "sglang.srt.managers.io_struct:TokenizedGenerateReqInput",
    "sglang.srt.managers.io_struct:GetInternalStateReq",
    "sglang.srt.managers.io_struct:hook_custom_types",
)


def relied_on() -> list[str]:
    """``module:Qualified.name`` of all of them, each once."""
    targets: dict[str, None] = {}
    for patch in PATCHES:
        for target in (patch.target, *patch.depends):
            targets[target] = None
    seams = (
        *TOKENIZER_MANAGER_METHODS,
        *AUTHENTICATION,
        *DATA_PARALLEL,
        *QUESTIONS,
        *RADIX_CACHE,
        *MESSAGES,
    )
    for target in seams:
        targets[target] = None
    return list(targets)
