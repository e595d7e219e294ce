"""Every family of models that SGLang serves on a CPU is served by us, and says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from autellix_sgl.runtime.launch.platform import uses_cpu_engine
from tests.runtime.cpu.families import (
    FALLS_BACK,
    FAMILIES,
    FLAGS,
    KERNELS,
    SERVED,
    UPSTREAM_CANNOT,
    Family,
)
from tests.runtime.cpu.family_process import try_model

PAGE = Path(__file__).parents[3] / "docs" / "cpu.md"
on_the_cpu = pytest.mark.skipif(
    not uses_cpu_engine(), reason="the backend is for machines without a GPU"
)
STOCK = ("--attention-backend", "torch_native")


def named(family: Family) -> str:
    return family.name.replace(" ", "-")


@on_the_cpu
@pytest.mark.engine
@pytest.mark.parametrize("family", [*SERVED, *FALLS_BACK], ids=named)
def test_same_text_as_torch_native(family: Family, tmp_path: Path) -> None:
    """A model gets the backend the table says, with the reason in the log, and its greedy text."""
    outcome = try_model(family.write(tmp_path), [*FLAGS, *family.flags])
    if isinstance(outcome, BaseException):
        raise outcome
    expected = "CpuAttnBackend" if family.served == KERNELS else "TorchNativeAttnBackend"
    assert outcome.backend == expected, outcome.log
    assert family.why in outcome.log
    assert ("Using torch_native instead" in outcome.log) == (family.served != KERNELS)
    assert (outcome.torch_native_error is not None) == family.torch_native_fails
    if not family.torch_native_fails:
        assert outcome.ours == outcome.torch_native


@on_the_cpu
@pytest.mark.engine
@pytest.mark.parametrize("family", UPSTREAM_CANNOT, ids=named)
def test_upstream_cannot(family: Family, tmp_path: Path) -> None:
    """What the table says that nobody serves, SGLang's own backend does not serve either."""
    outcome = try_model(family.write(tmp_path), [*FLAGS, *family.flags, *STOCK])
    assert isinstance(outcome, BaseException), "SGLang serves it now"
    assert family.why in repr(outcome)


def rows() -> list[str]:
    """The rows of the table in docs/cpu.md."""
    said = {False: "{0.served}", True: "{0.served}; torch_native fails"}
    return [
        f"| {family.name} | {said[family.torch_native_fails].format(family)} | {family.why} |"
        for family in FAMILIES
    ]


def test_the_page_has_the_table() -> None:
    """docs/cpu.md has a row for each family, as the table here says."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if line.startswith("| ")][2:]
    assert found == rows(), "\n".join(rows())
