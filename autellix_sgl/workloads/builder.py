"""Writes a program call by call, keeping the book of whose context each prompt repeats."""

from __future__ import annotations

from autellix_sgl.workloads.model import Interrupt, ProgramTrace, TracedCall


class ProgramBuilder:
    """Calls are added in an order their parents allow; each method returns the call's index."""

    def __init__(self, program_id: str, kind: str) -> None:
        self._id = program_id
        self._kind = kind
        self._calls: list[TracedCall] = []

    def __len__(self) -> int:
        return len(self._calls)

    def fresh(
        self,
        new_tokens: int,
        output_tokens: int,
        *,
        system: str = "",
        system_tokens: int = 0,
        parents: tuple[int, ...] = (),
        thread: str = "",
        interrupt: Interrupt | None = None,
    ) -> int:
        """A call whose context starts anew, with a system prompt."""
        return self._add(
            TracedCall(
                new_tokens=new_tokens,
                output_tokens=output_tokens,
                shared_tokens=system_tokens,
                system=system,
                parents=parents,
                thread=thread,
                interrupt=interrupt,
            )
        )

    def extend(
        self,
        call: int,
        new_tokens: int,
        output_tokens: int,
        *,
        parents: tuple[int, ...] | None = None,
        thread: str | None = None,
        interrupt: Interrupt | None = None,
        shared_tokens: int | None = None,
    ) -> int:
        """A call that goes on from all of *call*'s context, or from its first *shared_tokens*.

        Unless given, its parent and its thread are *call*'s.
        """
        before = self._calls[call]
        return self._add(
            TracedCall(
                new_tokens=new_tokens,
                output_tokens=output_tokens,
                shared_tokens=before.context_tokens if shared_tokens is None else shared_tokens,
                extends=call,
                parents=(call,) if parents is None else parents,
                thread=before.thread if thread is None else thread,
                interrupt=interrupt,
            )
        )

    def context_tokens(self, call: int) -> int:
        return self._calls[call].context_tokens

    def build(self) -> ProgramTrace:
        return ProgramTrace(self._id, self._kind, tuple(self._calls))

    def _add(self, call: TracedCall) -> int:
        self._calls.append(call)
        return len(self._calls) - 1
