"""What a patch says about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """One change to an upstream symbol.

    ``target`` is written ``module:Qualified.name``. ``depends`` lists further definitions whose
    source the change assumes; target and depends are fingerprinted. ``apply(value)`` puts the
    change in place and ``in_effect(value)`` looks whether it is; *value* is what the runtime hands
    over (a class, a function), so that a patch module itself holds no behaviour.
    """

    name: str
    target: str
    kind: str
    reason: str
    upstream: str
    remove_when: str
    since: str
    depends: tuple[str, ...]
    apply: Callable[[Any], None]
    in_effect: Callable[[Any], bool]
