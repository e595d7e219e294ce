"""The server flags that a user left open and that SGLang cannot choose well by itself.

Two gaps are filled: no model named (the default model), and a machine without a GPU, where SGLang
would take its kernels for a CUDA device and size its KV pool by the whole memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from autellix_sgl import default_model
from autellix_sgl.runtime.cpu import BACKEND_NAME as CPU_ATTENTION_BACKEND
from autellix_sgl.runtime.launch.platform import uses_cpu_engine

# Memory for KV: at most this share of what is free, and no more tokens than a CPU can make use of
# (at 2,000 tokens a second, 32,768 are a quarter of a minute of prefill), since every start has to
# allocate them.
KV_MEMORY_SHARE = 0.25
MAX_POOL_TOKENS = 32_768
MIN_POOL_TOKENS = 4_096

# For a model whose configuration is not on disk yet: an 8B Llama's 32 layers of 8 heads of 128.
UNKNOWN_KV_BYTES_PER_TOKEN = 131_072
BYTES_PER_VALUE = 2

# Stands for the value of a flag that has none.
SWITCH = ""

RUNNING_CALLS_PER_CORE = 8
MAX_RUNNING_CALLS = 64


def server_defaults(user_argv: Sequence[str]) -> list[str]:
    """The flags to put *before* the user's.

    In front, because argparse lets the last one win: what the user wrote overrides ours in every
    spelling, abbreviations included. The settings of a ``--config`` file have to be merged into
    ``user_argv`` beforehand, as `autellix_sgl.launch_server` does. With no model named, the
    default model is prepared here, which takes a while the first time; the rest is arithmetic.
    """
    defaults: dict[str, str] = {}
    model = flag_value(user_argv, "--model-path", "--model")
    if model is None:
        model = str(default_model.ensure())
        defaults |= {
            "--model-path": model,
            "--served-model-name": default_model.SERVED_NAME,
            "--tool-call-parser": default_model.TOOL_CALL_PARSER,
            # Between two tokens of JSON so small a model can write blanks for ever.
            "--constrained-json-disable-any-whitespace": SWITCH,
        }
    if uses_cpu_engine():
        defaults |= _cpu_defaults(Path(model))
    return [
        word
        for flag, value in defaults.items()
        if flag_value(user_argv, flag) is None
        for word in (flag, value)
        if word != SWITCH
    ]


def flag_value(argv: Sequence[str], *names: str) -> str | None:
    """The value that the last of these flags was given, ``""`` for a bare flag, None if absent."""
    value: str | None = None
    for position, word in enumerate(argv):
        flag, assigned, inline = word.partition("=")
        if flag not in names:
            continue
        following = argv[position + 1] if position + 1 < len(argv) else ""
        value = inline if assigned else following
    return value


def _cpu_defaults(model: Path) -> dict[str, str]:
    """Flags for SGLang's CPU engine, sized for this machine."""
    config = _model_config(model)
    defaults = {
        "--device": "cpu",
        "--attention-backend": CPU_ATTENTION_BACKEND,
        # Graph capture is SGLang's default wherever it does not know the backend to lack it.
        "--disable-cuda-graph": SWITCH,
        "--sampling-backend": "pytorch",
        # Otherwise an idle scheduler polls its sockets with a core that the model could use.
        "--sleep-on-idle": SWITCH,
        "--lora-backend": "torch_native",
        "--max-total-tokens": str(_pool_tokens(config)),
        "--max-running-requests": str(_running_calls()),
    }
    context = config.get("max_position_embeddings")
    if isinstance(context, int):
        # A call cannot outgrow the pool; saying so at the start beats an abort in the middle.
        defaults["--context-length"] = str(min(context, _pool_tokens(config)))
    return defaults


def _model_config(model: Path) -> dict[str, object]:
    """A local model's ``config.json``, empty for a model that is not on this disk."""
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return config if isinstance(config, dict) else {}


def _pool_tokens(config: dict[str, object]) -> int:
    affordable = int(_available_bytes() * KV_MEMORY_SHARE) // _kv_bytes_per_token(config)
    return max(MIN_POOL_TOKENS, min(MAX_POOL_TOKENS, affordable))


def _kv_bytes_per_token(config: dict[str, object]) -> int:
    """Key and value of every layer, for the grouped-query attention that Llama-like models have."""
    heads = config.get("num_attention_heads")
    layers = config.get("num_hidden_layers")
    hidden = config.get("hidden_size")
    if not (isinstance(heads, int) and isinstance(layers, int) and isinstance(hidden, int)):
        return UNKNOWN_KV_BYTES_PER_TOKEN
    kv_heads = config.get("num_key_value_heads")
    head_dim = config.get("head_dim")
    return (
        2
        * layers
        * (kv_heads if isinstance(kv_heads, int) else heads)
        * (head_dim if isinstance(head_dim, int) else hidden // heads)
        * BYTES_PER_VALUE
    )


def _running_calls() -> int:
    cores = len(os.sched_getaffinity(0))
    return min(MAX_RUNNING_CALLS, RUNNING_CALLS_PER_CORE * cores)


def _available_bytes() -> int:
    """Memory this process may still take: what the system has free, or its container's limit."""
    fields = dict(
        line.split(":", 1) for line in Path("/proc/meminfo").read_text("ascii").splitlines()
    )
    available = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        return available
    return available if limit == "max" else min(available, int(limit))
