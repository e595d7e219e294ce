"""The compiled kernels, built at most once a machine; without a compiler their tests skip."""

from __future__ import annotations

import os

import pytest

# Before torch is imported: on a busy machine its threads would spin through the small references.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import autellix_sgl.runtime  # noqa: F401 (prepares the process for sglang)
from autellix_sgl.runtime.cpu.build import KernelsUnavailable, load_kernels
from autellix_sgl.runtime.cpu.fallback import TorchOps
from autellix_sgl.runtime.cpu.ops import AttentionOps, Kernels


@pytest.fixture(scope="session")
def kernels() -> Kernels:
    try:
        return load_kernels()
    except KernelsUnavailable as error:
        pytest.skip(f"no kernels: {error}")


@pytest.fixture(params=["kernels", "torch"])
def ops(request: pytest.FixtureRequest) -> AttentionOps:
    if request.param == "torch":
        return TorchOps()
    compiled: Kernels = request.getfixturevalue("kernels")
    return compiled
