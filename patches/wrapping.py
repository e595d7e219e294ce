"""Put a function of ours around an upstream function, wherever a module already holds it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

MARK = "autellix_hook"


def wrap(target: str, hook: Callable[..., Any]) -> None:
    """Replace ``module:name`` by ``hook(original, ...)``; doing it twice changes nothing.

    ``from module import name`` copies a function into other modules, so every module that has been
    imported by now and holds the original gets the wrapper.
    """
    original = _current(target)
    if getattr(original, MARK, None) is hook:
        return
    wrapper = wraps(original)(partial(hook, original))
    setattr(wrapper, MARK, hook)
    name = target.partition(":")[2]
    for module in list(sys.modules.values()):
        if module is not None and vars(module).get(name) is original:
            setattr(module, name, wrapper)


def is_wrapped(target: str, hook: Callable[..., Any]) -> bool:
    """Whether *hook* is around ``module:name`` and no module holds the original any more."""
    wrapper = _current(target)
    if getattr(wrapper, MARK, None) is not hook:
        return False
    name = target.partition(":")[2]
    original = getattr(wrapper, "__wrapped__", None)
    return not any(
        module is not None and vars(module).get(name) is original
        for module in list(sys.modules.values())
    )


def _current(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
