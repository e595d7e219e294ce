"""What is relied on without a patch: by a subclass, a launcher argument or a registration."""

from __future__ import annotations

from autellix_sgl.patches.record import Reliance

MANAGER = "sglang.srt.managers.tokenizer_manager:TokenizerManager"
CONTROLLER = "sglang.srt.managers.data_parallel_controller:DataParallelController"
CACHE = "sglang.srt.mem_cache"

OURS = "runtime/tokenizer/manager.py"
ENDS = "runtime/tokenizer/call_ends.py"
REPLICAS = "runtime/tokenizer/replicas.py"
PROGRAM_CACHE = "runtime/scheduler/program_cache.py"
TENANTS = "runtime/http/tenant_middleware.py, runtime/launch/server.py"

CALLS = (
    Reliance(
        f"{MANAGER}.generate_request",
        OURS,
        "every request comes this way, HTTP or not, and is normalised before its states are made",
    ),
    Reliance(
        f"{MANAGER}._init_req_state",
        OURS,
        "a state for each prompt of a request, held by its id, with the prompt's own object",
    ),
    Reliance(
        f"{MANAGER}._handle_batch_request",
        OURS,
        "each prompt and each parallel sample is sent by itself, a sample as a single copy",
    ),
    Reliance(
        f"{MANAGER}._send_one_request",
        OURS,
        "the message is on its way when this returns, and not if it raises",
    ),
    Reliance(
        f"{MANAGER}._send_batch_request",
        OURS,
        "replaced by sending one after another: does nothing else that they would miss",
    ),
    Reliance(
        f"{MANAGER}.update_request_meta_info",
        OURS,
        "called for each output with what the schedulers added to it, one value a request",
    ),
    Reliance(
        f"{MANAGER}.init_running_status",
        f"{OURS}, {ENDS}",
        "the states of requests are one dictionary, made here; who leaves it has left",
    ),
    Reliance(
        f"{MANAGER}._handle_abort_req",
        ENDS,
        "a call that is aborted while it waits leaves with its state",
    ),
    Reliance(
        f"{MANAGER}._release_req_states_on_failure",
        ENDS,
        "a call that was sent is aborted and stays until its scheduler has answered",
    ),
    Reliance(
        "sglang.srt.entrypoints.http_server:health_generate",
        f"{OURS}, {ENDS}",
        "its request is known by its id, and it forgets the state itself",
    ),
    Reliance(
        f"{MANAGER}._validate_one_request",
        f"{OURS}, runtime/tokenizer/request_fields.py",
        "each prompt comes by here with its tokens, before anything is sent",
    ),
    Reliance(
        f"{MANAGER}.abort_request",
        OURS,
        "sends the id of a call that somebody waits for to the schedulers, once",
    ),
    Reliance(
        "sglang.utils:TypeBasedDispatcher",
        "runtime/wire.py, runtime/scheduler/scheduler.py",
        "a message of a subclass goes where its base's go, unless it has a handler of its own",
    ),
)

AUTHENTICATION = (
    Reliance(
        "sglang.srt.utils.auth:decide_request_auth",
        TENANTS,
        "who is let in where: with an admin key only, what is not an admin's is open to everybody",
    ),
    Reliance(
        "sglang.srt.utils.auth:add_api_key_middleware",
        TENANTS,
        "checks the admin's key outside of our middleware, which is added before",
    ),
    Reliance(
        "sglang.srt.entrypoints.http_server:_setup_and_run_http_server",
        TENANTS,
        "adds its middleware after the tokenizer manager was made, and no other way in",
    ),
)

DATA_PARALLEL = (
    Reliance(
        f"{CONTROLLER}.maybe_external_dp_rank_routing",
        REPLICAS,
        "a request goes to the replica that it names, health checks too",
    ),
    Reliance(
        "sglang.srt.managers.communicator:FanOutCommunicator",
        REPLICAS,
        "a control request is answered when as many have answered as its fan-out says",
    ),
)

RADIX_CACHE = (
    Reliance(
        f"{CACHE}.registry:create_unified_radix_cache",
        PROGRAM_CACHE,
        "makes a cache of the class it is given, with everything SGLang attaches to its own",
    ),
    Reliance(
        f"{CACHE}.unified_cache.unified_tree_core:UnifiedTreeCore._split_node",
        PROGRAM_CACHE,
        "a split puts a new node above the old one, which keeps its number",
    ),
    Reliance(
        f"{CACHE}.unified_cache.components.full:FullComponent._evict_device_start",
        PROGRAM_CACHE,
        "eviction asks the strategy for the worth of each leaf, when it begins",
    ),
    Reliance(
        f"{CACHE}.unified_cache.components.full:FullComponent._evict_device_next_node",
        PROGRAM_CACHE,
        "and takes the smallest; a parent that becomes a leaf joins with its own",
    ),
)

SEAMS: tuple[Reliance, ...] = (*CALLS, *AUTHENTICATION, *DATA_PARALLEL, *RADIX_CACHE)
