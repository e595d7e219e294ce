"""One model in a process of its own: loaded, and asked for tokens under both backends."""

from __future__ import annotations

import gc
import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import autellix_sgl.runtime  # noqa: F401 (prepares the process for sglang)

# What every process would import for itself, in seconds each.
PRELOADED = ("sglang.srt.managers.scheduler", "sglang.srt.models.registry")

TOKENS = 8
# The second is longer than the tiny models' windows.
PROMPTS = ([5, 17, 300], [(7 * i) % 991 + 3 for i in range(40)])


@dataclass(frozen=True, slots=True)
class Outcome:
    """The backend a model got, what was logged, and each prompt's greedy tokens under both.

    ``torch_native`` is None where ``torch_native_error`` says why.
    """

    backend: str
    log: str
    ours: list[list[int]]
    torch_native: list[list[int]] | None
    torch_native_error: str | None


def try_model(folder: Path, flags: list[str]) -> Outcome | BaseException:
    """Load the model in *folder* as a scheduler process does, and generate with either backend.

    Returns what a process raised that came to no outcome.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *PRELOADED])
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        future = executor.submit(_try, folder, flags)
        return future.exception() or future.result()


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _try(folder: Path, flags: list[str]) -> Outcome:
    # The start collects garbage, which would copy all that this process shares with its parent.
    gc.freeze()
    import torch
    from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend

    from autellix_sgl.runtime.cpu.rehearsal import MODEL_ERRORS

    messages = _Messages()
    logger = logging.getLogger("autellix_sgl.runtime.cpu")
    logger.addHandler(messages)
    logger.setLevel(logging.INFO)
    runner = _runner(folder, flags)
    backend = runner.attn_backend
    stock, error = None, None
    with torch.no_grad():
        ours = _greedy(runner, backend)
        if hasattr(backend, "acceleration"):
            backend.acceleration.undo()
        try:
            stock = _greedy(runner, TorchNativeAttnBackend(runner))
        except MODEL_ERRORS as raised:
            error = str(raised)
    return Outcome(type(backend).__name__, "\n".join(messages.lines), ours, stock, error)


def _runner(folder: Path, flags: list[str]) -> Any:
    """A scheduler's model runner, with random weights from before it chooses its backend."""
    import torch
    from sglang.srt.managers.scheduler import Scheduler
    from sglang.srt.runtime_context import SpawnRanks, publish
    from sglang.srt.server_args import PortArgs

    from autellix_sgl.launch_server import parse_server_args
    from autellix_sgl.runtime import cpu

    class RandomScheduler(Scheduler):  # type: ignore[misc]
        def init_memory_pools(self) -> None:
            _randomize(self.tp_worker.model_runner.model)
            super().init_memory_pools()

    torch.set_num_threads(1)
    # Some models compile small functions, which takes longer than all that is looked at here.
    torch._dynamo.config.disable = True
    cpu.install()
    server_args = parse_server_args(["--model-path", str(folder), *flags])
    ranks = SpawnRanks(world_rank=0, dp_rank=None, gpu_id=0)
    publish(server_args, role="scheduler", ranks=ranks)
    return RandomScheduler(server_args, PortArgs.init_new(server_args)).tp_worker.model_runner


def _randomize(model: Any) -> None:
    """Weights large enough that attention decides what is said; norms stay about one."""
    import torch

    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point():
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.copy_(1 + 0.1 * noise)
            else:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)


def _greedy(runner: Any, backend: Any) -> list[list[int]]:
    """Each prompt's tokens; of a model that makes embeddings, where the largest element is."""
    import torch

    from autellix_sgl.runtime.cpu.rehearsal import staged

    with staged(runner, PROMPTS, room=TOKENS) as stage:
        none, lengths = torch.zeros_like(stage.lengths), stage.lengths
        halves = lengths // 2 if runner.is_generation else none
        if runner.is_generation:
            stage.extend(backend, none, halves)
        tokens = [stage.extend(backend, halves, lengths).argmax(-1).tolist()]
        for step in range(TOKENS if runner.is_generation else 0):
            tokens.append(stage.decode(backend, tokens[-1], step).argmax(-1).tolist())
    return [list(said) for said in zip(*tokens, strict=True)]
