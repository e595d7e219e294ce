"""What a patch says about itself, and what is said of each definition that is relied on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Reliance:
    """A definition of SGLang's whose behaviour code of ours assumes.

    ``target`` is written ``module:Qualified.name``. ``by`` names our files, as paths below the
    package, separated by commas. ``purpose`` is what they assume: what would go wrong without an
    error if it changed. What an error at the start or the first call would show is not recorded.
    """

    target: str
    by: str
    purpose: str


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
    depends: tuple[Reliance, ...]
    apply: Callable[[Any], None]
    in_effect: Callable[[Any], bool]

    @property
    def relied_on(self) -> tuple[Reliance, ...]:
        """The target and what the change depends on besides."""
        return (Reliance(self.target, f"patches/{self.name}.py", self.reason), *self.depends)
