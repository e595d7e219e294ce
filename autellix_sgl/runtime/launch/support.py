"""Modes of SGLang that program scheduling does not fit: refused at start, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autellix_sgl.config import LOAD_BALANCE_FLAG, PROGRAM_CACHE, ProgramArgs
from autellix_sgl.core.memory.program_memory import LRU, VALUE
from autellix_sgl.errors import ConfigError

WAY_OUT = "Use --program-policy none for SGLang's own scheduler."
ORDERS = ("fcfs", "lpm")


@dataclass(frozen=True, slots=True)
class Refusal:
    """``applies(config)`` looks at SGLang's resolved configuration."""

    mode: str
    applies: Callable[[Any], bool]
    reason: str


REFUSALS = (
    Refusal(
        "--schedule-policy",
        lambda c: c.schedule_policy not in ORDERS,
        "programs set the order between levels; inside a level it can be fcfs or lpm",
    ),
    Refusal(
        "--enable-priority-scheduling",
        lambda c: c.enable_priority_scheduling,
        "a request's own priority contradicts its program's level",
    ),
    Refusal(
        "--disable-radix-cache",
        lambda c: c.disable_radix_cache,
        "a preempted call's KV is kept in the radix cache",
    ),
    Refusal(
        "--pp-size",
        lambda c: c.pp_size > 1,
        "pipeline parallelism runs another event loop with several batches in flight",
    ),
    Refusal(
        "--disaggregation-mode",
        lambda c: c.disaggregation_mode not in (None, "null"),
        "a disaggregated server hands calls over between engines in queues of its own",
    ),
    Refusal(
        "--enable-pdmux",
        lambda c: c.enable_pdmux,
        "prefill/decode multiplexing runs another event loop",
    ),
    Refusal(
        "--dllm-algorithm",
        lambda c: c.dllm_algorithm is not None,
        "diffusion language models have no decode steps to account",
    ),
    Refusal(
        "--speculative-algorithm",
        lambda c: c.speculative_algorithm is not None,
        "preemption with draft tokens in flight is not supported yet",
    ),
    Refusal(
        "--attn-dp-size",
        lambda c: c.attn_dp_size > 1,
        "preemption under data-parallel attention is not supported yet",
    ),
    Refusal(
        "--tokenizer-worker-num",
        lambda c: c.tokenizer_worker_num > 1,
        "with several tokenizer processes no process table sees every call",
    ),
    Refusal(
        "--enable-hisparse",
        lambda c: c.enable_hisparse,
        "HiSparse stages requests in a queue of its own",
    ),
    Refusal(
        "--strip-thinking-cache",
        lambda c: c.strip_thinking_cache,
        "a preempted call's thinking would leave the cache with it, to be computed again each time",
    ),
    Refusal(
        "--encoder-only",
        lambda c: c.encoder_only,
        "an encoder makes no calls",
    ),
    Refusal(
        "--use-ray",
        lambda c: c.use_ray,
        "the Ray launcher constructs the stock scheduler",
    ),
    Refusal(
        "--grpc-mode",
        lambda c: c.smg_grpc_mode or c.grpc_mode,
        "the gRPC server does not carry programs",
    ),
)


PLACEMENT_REFUSALS = (
    Refusal(
        "--nnodes",
        lambda c: c.nnodes > 1,
        "the processes of every replica are watched from the main process",
    ),
)


def check_supported(config: Any, args: ProgramArgs) -> None:
    """Raise ConfigError for the first unsupported mode in *config* (resolved ServerArgs)."""
    from sglang.srt.environ import envs

    if args.stock:
        return
    for refusal in REFUSALS:
        if refusal.applies(config):
            raise ConfigError(
                f"{refusal.mode} does not go with --program-policy {args.policy}: "
                f"{refusal.reason}. {WAY_OUT}"
            )
    for refusal in PLACEMENT_REFUSALS if args.placement else ():
        if refusal.applies(config):
            raise ConfigError(
                f"{refusal.mode} does not go with {LOAD_BALANCE_FLAG} {args.placement}: "
                f"{refusal.reason}. Use one of SGLang's own methods."
            )
    if args.eviction == VALUE:
        check_cache(config)
    if args.tenants is not None:
        check_tenancy(config)
    if envs.SGLANG_RUST_SERVER.get():
        raise ConfigError(
            f"SGLANG_RUST_SERVER does not go with --program-policy {args.policy}: the Rust server "
            f"replaces the process that holds the process table. {WAY_OUT}"
        )


def check_cache(config: Any) -> None:
    """Raise ConfigError if something else is to choose what leaves the radix cache."""
    for flag in ("enable_lmcache", "enable_flexkv"):
        if getattr(config, flag):
            raise ConfigError(
                f"--{flag.replace('_', '-')} does not go with --program-eviction value: it brings "
                "a radix cache of its own"
            )
    if config.radix_cache_backend != PROGRAM_CACHE:
        raise ConfigError(
            f"--radix-cache-backend {config.radix_cache_backend} does not go with "
            "--program-eviction value, which needs its own"
        )
    if config.radix_eviction_policy != LRU:
        raise ConfigError(
            f"--radix-eviction-policy {config.radix_eviction_policy} does not go with "
            "--program-eviction value: there can be one order of eviction"
        )


def check_tenancy(config: Any) -> None:
    """Raise ConfigError unless every way into the server asks for a tenant's or the admin's key."""
    if config.api_key is not None:
        raise ConfigError("--api-key does not go with --program-tenants: put the key into the file")
    if not config.admin_api_key:
        raise ConfigError(
            "--program-tenants needs --admin-api-key: it guards what concerns all tenants, "
            "such as /flush_cache and /server_info"
        )
    if config.grpc_port is not None:
        raise ConfigError("--grpc-port does not go with --program-tenants: gRPC asks for no key")
