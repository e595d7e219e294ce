"""What is installed on this machine: versions, every patch, the default model."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from autellix_sgl import default_model
from autellix_sgl.errors import ActivationError
from autellix_sgl.patches.acceptance import VARIABLE, accepted
from autellix_sgl.patches.fingerprint import (
    SGLANG_VERSION,
    changed,
    installed_version,
    mismatches,
)
from autellix_sgl.patches.inventory import PATCHES
from autellix_sgl.patches.record import Patch, Reliance
from autellix_sgl.patches.seams import SEAMS

MINIMUM_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Check:
    """One finding about the installation. ``ok`` None: worth knowing, neither right nor wrong."""

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class PatchCheck:
    """A patch and whether the upstream source it was written against is what is installed."""

    name: str
    target: str
    kind: str
    reason: str
    definitions: int
    problems: list[str]


@dataclass(frozen=True, slots=True)
class Installation:
    """What was found on this machine."""

    checks: list[Check]
    patches: list[PatchCheck]

    @property
    def ok(self) -> bool:
        return all(check.ok is not False for check in self.checks) and not any(
            patch.problems for patch in self.patches
        )


def examine_installation() -> Installation:
    """Look at this machine."""
    checks = [_check_python(), _check_sglang(), _check_torch(), _check_cpu_attention()]
    checks += [_check_default_model(), _check_seams(), *_check_accepted()]
    return Installation(checks, [_check_patch(patch) for patch in PATCHES])


def _check_python() -> Check:
    found = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info >= MINIMUM_PYTHON:
        return Check("Python", True, found)
    needed = ".".join(str(part) for part in MINIMUM_PYTHON)
    return Check("Python", False, f"{found}; {needed} or later is needed")


def _check_sglang() -> Check:
    found = installed_version()
    if found == SGLANG_VERSION:
        return Check("SGLang", True, found)
    return Check("SGLang", False, f"{SGLANG_VERSION} is needed, found {found or 'none'}")


def _check_torch() -> Check:
    from autellix_sgl.runtime.launch.platform import uses_cpu_engine

    found = _version_of("torch")
    if found is None:
        return Check("torch", False, "is not installed")
    return Check("torch", True, f"{found}, to run on the {'CPU' if uses_cpu_engine() else 'GPU'}")


def _check_cpu_attention() -> Check:
    """Which attention the launcher takes on this machine if no flag says otherwise."""
    from autellix_sgl.runtime.cpu import BACKEND_NAME
    from autellix_sgl.server_defaults import flag_value, server_defaults

    backend = flag_value(server_defaults(["--model-path", "any"]), "--attention-backend")
    if backend is None:
        return Check("CPU attention", None, "not needed beside a GPU")
    if backend != BACKEND_NAME:
        return Check("CPU attention", None, f"SGLang's {backend}")
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        return Check("CPU attention", None, f"{backend} in torch, slower: no C++ compiler here")
    return Check("CPU attention", True, f"{backend}, compiled with {compiler} at first use")


def _check_default_model() -> Check:
    folder = default_model.folder()
    if default_model.is_complete(folder):
        return Check("default model", True, f"{default_model.NAME}, in {folder}")
    if _version_of(default_model.DISTRIBUTION) is not None:
        return Check("default model", None, "is prepared at the first start without --model-path")
    missing = f"the package {default_model.DISTRIBUTION} is not installed"
    return Check("default model", None, f"{missing}; a server needs --model-path")


def _check_seams() -> Check:
    """The definitions that are subclassed or called without any patch."""
    problems = _mismatches(SEAMS)
    if problems:
        return Check("other seams", False, "; ".join(problems))
    return Check("other seams", True, f"{len(SEAMS)} definitions as recorded")


def _check_accepted() -> list[Check]:
    """The definitions that the environment says may have changed, if it says so."""
    try:
        targets = accepted()
    except ActivationError as error:
        return [Check("accepted changes", False, str(error))]
    if not targets or installed_version() is None:
        return []
    differing = changed(targets)
    details = [f"{t} ({'changed' if t in differing else 'as recorded'})" for t in targets]
    return [Check("accepted changes", None, f"by {VARIABLE}: {', '.join(details)}")]


def _check_patch(patch: Patch) -> PatchCheck:
    relied_on = patch.relied_on
    problems = _mismatches(relied_on)
    return PatchCheck(patch.name, patch.target, patch.kind, patch.reason, len(relied_on), problems)


def _mismatches(reliances: Sequence[Reliance]) -> list[str]:
    if installed_version() is None:
        return ["SGLang is not installed"]  # once, not once for each definition
    try:
        may_differ = accepted()
    except ActivationError:
        may_differ = []  # said by a check of its own
    return mismatches([reliance.target for reliance in reliances], may_differ)


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
