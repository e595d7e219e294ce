"""Put the program scheduler in place in this process, prove it, or stop the start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from autellix_sgl.errors import ActivationError
from autellix_sgl.patches.acceptance import accepted
from autellix_sgl.patches.fingerprint import (
    SGLANG_VERSION,
    changed,
    installed_version,
    mismatches,
)
from autellix_sgl.patches.inventory import PATCHES, relied_on
from autellix_sgl.runtime.process_report import ProcessReport


def check_upstream() -> None:
    """Raise ActivationError unless the installed SGLang is the one this package was written for.

    But for the changed definitions that ``AUTELLIX_ACCEPT_CHANGED`` names.
    """
    found = installed_version()
    if found != SGLANG_VERSION:
        raise ActivationError(
            f"SGLang {SGLANG_VERSION} is needed, found {found or 'none'}. Install the version this "
            "package pins, or start with --program-policy none for SGLang's own scheduler."
        )
    problems = mismatches(relied_on(), accepted())
    if problems:
        names = ", ".join(patch.name for patch in PATCHES)
        raise ActivationError(
            f"the installed SGLang {found} differs from the {SGLANG_VERSION} that the patches "
            f"({names}) were written against: {'; '.join(problems)}. Reinstall it, start with "
            "--program-policy none, or read docs/porting.md."
        )


def activate(role: str, values: Mapping[str, Any]) -> ProcessReport:
    """Apply the patches named in *values* to this process and verify them.

    *values* maps a patch's name to what it puts in place. Raises ActivationError, naming patch and
    target, if one does not take.
    """
    check_upstream()
    applied: list[str] = []
    for patch in PATCHES:
        if patch.name not in values:
            continue
        patch.apply(values[patch.name])
        if not patch.in_effect(values[patch.name]):
            raise ActivationError(
                f"patch {patch.name} did not take effect on {patch.target} (SGLang "
                f"{installed_version()}, expected {SGLANG_VERSION})"
            )
        applied.append(patch.name)
    sglang = installed_version() or "none"
    return ProcessReport(role, os.getpid(), sglang, tuple(applied), tuple(changed(accepted())))
