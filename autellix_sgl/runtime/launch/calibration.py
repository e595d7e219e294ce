"""Fit the cost model to this machine by running a little load through the server.

The main process sends calls of known shape, collects the step samples of every replica's rank 0,
fits non-negative coefficients and sends them to all ranks as one control message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import nnls
from sglang.srt.managers.io_struct import GenerateReqInput, SetInternalStateReq

from autellix_sgl.core import CostModel
from autellix_sgl.runtime.tokenizer.manager import ProgramTokenizerManager
from autellix_sgl.runtime.wire import cost_update

logger = logging.getLogger(__name__)

Sample = tuple[Sequence[float], float]

PREFILL_LENGTHS = (16, 128, 512)
DECODE_CONTEXTS = (16, 384)
DECODE_STEPS = 12
MAX_BATCH = 64
MIN_SAMPLES = 8
CONTEXT_BIN = 128


def fit(samples: Sequence[Sample]) -> CostModel:
    """Least squares on relative error with coefficients >= 0, over the median step of each kind.

    Medians, because a step that met a page fault or a busy neighbour is several times too long.
    Samples are (features of StepWork, wall ms); the model's error is over all of them. Raises
    ValueError on too few.
    """
    if len(samples) < MIN_SAMPLES:
        raise ValueError(f"{len(samples)} step samples are too few for a fit")
    features = np.array([f for f, _ in samples], dtype=float)
    wall_ms = np.array([max(w, 1e-6) for _, w in samples], dtype=float)
    coefficients = _solve(*_medians(features, wall_ms))
    error = np.abs(features @ coefficients - wall_ms) / wall_ms
    base, prefill, decode, context = (float(c) for c in coefficients)
    return CostModel(base, prefill, decode, context, error=float(error.mean()))


def _medians(features: Any, wall_ms: Any) -> tuple[Any, Any]:
    """One row for each kind of step (tokens prefilled, calls decoding, context to 128 tokens)."""
    kinds = np.column_stack([features[:, 1], features[:, 2], features[:, 3] // CONTEXT_BIN])
    _, kind_of = np.unique(kinds, axis=0, return_inverse=True)
    rows = [kind_of.ravel() == kind for kind in range(kind_of.max() + 1)]
    return (
        np.array([np.median(features[row], axis=0) for row in rows]),
        np.array([np.median(wall_ms[row]) for row in rows]),
    )


def _solve(features: Any, wall_ms: Any) -> Any:
    solution, _ = nnls(features / wall_ms[:, None], np.ones(len(wall_ms)))
    return solution


async def calibrate(manager: ProgramTokenizerManager) -> CostModel:
    """Measure, fit, and put the model in place on every rank."""
    batch = await _decode_batch(manager)
    longest = manager.context_len - DECODE_STEPS - 8
    await _load(manager, prompts=[16] * batch, new_tokens=4, salt=1)  # first-run costs, not sampled
    await _call(manager.set_internal_state, cost_update(manager.program_args.initial_cost_model()))
    for salt, length in enumerate(PREFILL_LENGTHS * 2, start=2):
        await _load(manager, prompts=[min(length, longest)], new_tokens=1, salt=salt)
    for width in sorted({1, max(batch // 2, 1), batch}):
        for context in DECODE_CONTEXTS:
            prompts = [min(context, longest)] * width
            await _load(manager, prompts=prompts, new_tokens=DECODE_STEPS, salt=100 * width)
    states = await manager.get_internal_state()
    samples = [(f, w) for state in states for f, w in state["program"]["samples"]]
    model = fit(samples)
    await _call(manager.set_internal_state, cost_update(model))
    if manager.replicas is not None:
        manager.replicas.use_cost_model(model)
    await manager.flush_cache()
    logger.info(
        "Service is charged at %.2f ms a step + %.4f ms a prefill token + %.3f ms a decoding call "
        "+ %.6f ms a context token (mean error %.0f %%, %d steps)",
        model.base_ms,
        model.per_prefill_token_ms,
        model.per_decode_call_ms,
        model.per_context_token_ms,
        100 * (model.error or 0.0),
        len(samples),
    )
    return model


async def _call(set_internal_state: Any, fields: dict[str, float]) -> None:
    updated = await set_internal_state(SetInternalStateReq(server_args=fields))
    logger.debug("cost model %s: %s", fields, updated)


async def _decode_batch(manager: ProgramTokenizerManager) -> int:
    states = await manager.get_internal_state()
    slots = min(int(state["effective_max_running_requests_per_dp"]) for state in states)
    return max(1, min(slots, MAX_BATCH))


async def _load(
    manager: ProgramTokenizerManager, *, prompts: Sequence[int], new_tokens: int, salt: int
) -> None:
    """Run one batch of calls to its end; *salt* makes its prompts share no prefix with others'."""
    vocabulary = int(manager.model_config.vocab_size)
    request = GenerateReqInput(
        input_ids=[
            [(7919 * (salt * 1000 + row * 31 + i) + 13) % vocabulary for i in range(length)]
            for row, length in enumerate(prompts)
        ],
        sampling_params={"max_new_tokens": new_tokens, "ignore_eos": True, "temperature": 0.0},
        log_metrics=False,
    )
    async for _ in manager.generate_request(request, None):
        pass


async def _calibrate_and_open(manager: ProgramTokenizerManager) -> CostModel:
    try:
        return await calibrate(manager)
    finally:
        manager.opening.open()


def calibrate_from_thread(manager: ProgramTokenizerManager) -> CostModel:
    """Run :func:`calibrate` on the server's event loop from another thread, and wait for it.

    Users' calls go on with its end, also if it fails. The loop is known once the manager has
    handled a request, such as upstream's warm-up.
    """
    if manager.event_loop is None:
        raise RuntimeError("calibration needs a server that has handled a request")
    return asyncio.run_coroutine_threadsafe(
        _calibrate_and_open(manager), manager.event_loop
    ).result()
