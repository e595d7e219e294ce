"""A RuntimeEndpoint whose ``sgl.function`` runs are programs, and each ``fork`` branch a thread."""

from __future__ import annotations

import copy
import threading
import uuid
from typing import Any
from weakref import WeakSet

from sglang.lang.backend.runtime_endpoint import RuntimeEndpoint as SGLangRuntimeEndpoint
from sglang.lang.interpreter import StreamExecutor

from autellix_sgl.frontend.place import Place, current
from autellix_sgl.frontend.remote import Server


class RuntimeEndpoint(SGLangRuntimeEndpoint):  # type: ignore[misc]
    """SGLang's own, in whose place it goes: ``sgl.set_default_backend(RuntimeEndpoint(url))``.

    A run is a program that ends when the last of its calls is done. Inside of a
    `autellix_sgl.program` it is a thread of that, which ends it. The first branch of a run that
    makes a call is the thread ``1``, the next ``2``, and so on.
    """

    _run: _Run | None = None

    @property
    def endpoint(self) -> RuntimeEndpoint:
        """This backend for one run; SGLang asks each backend for it when a run starts."""
        view = copy.copy(self)
        outer = current()
        if outer is None and self._run is not None:
            outer = self._run.outer  # a batch runs in threads that know of no program
        view._run = _Run(outer)
        return view

    def end_program(self, s: Any) -> None:
        """SGLang tells of each branch that is over, some more than once."""
        super().end_program(s)
        if self._run is not None and _is_root(s) and self._run.is_to_end():
            server = Server.at(self.base_url, self.api_key)
            threading.Thread(target=self._run.end, args=(s, server)).start()

    def _add_images(self, s: StreamExecutor, data: dict[str, Any]) -> None:
        # Everything that is sent for a branch passes here, and nothing else does.
        super()._add_images(s, data)
        if self._run is not None:
            data["program"] = self._run.place_of(s).as_field()


class _Run:
    """One run of a function: the program it is, or the place it has in one."""

    def __init__(self, outer: Place | None) -> None:
        self.outer = outer
        self._lock = threading.Lock()
        self._ending = False
        self._root: Place | None = None
        self._threads: dict[str, Place] = {}
        self._branches: WeakSet[StreamExecutor] = WeakSet()

    def place_of(self, branch: StreamExecutor) -> Place:
        """The thread of a branch; the root's own if it is that."""
        with self._lock:
            root = self._root = self._root or self._new_root()
            if _is_root(branch):
                return root
            self._branches.add(branch)
            number = str(len(self._threads) + 1)
            return self._threads.setdefault(branch.sid, root.within(number))

    def _new_root(self) -> Place:
        name = uuid.uuid4().hex
        return Place(f"sgl-{name}") if self.outer is None else self.outer.within(f"sgl-{name[:8]}")

    def is_to_end(self) -> bool:
        """Whether the run is a program of its own that is over now, said once."""
        with self._lock:
            ending, self._ending = self._ending, True
            return self.outer is None and not ending

    def end(self, root: StreamExecutor, server: Server) -> None:
        """Wait for the run's last call, then end its program."""
        if root.use_thread:
            root.worker.join()
        for branch in list(self._branches):
            branch.sync()
        with self._lock:
            place = self._root
        if place is not None:
            server.end(place.program)


def _is_root(branch: StreamExecutor) -> bool:
    return branch.fork_start_text_pos is None
