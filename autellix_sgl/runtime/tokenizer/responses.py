"""Which program was a stored response's? So that a request which continues it joins that program.

A client of the Responses API continues a conversation by the id of its last response alone. With
SGLang's ``--enable-response-store`` off, as it is by default, nothing can be continued and nothing
is remembered here.
"""

from __future__ import annotations

from collections import OrderedDict


class ResponsePrograms:
    """Response ids by tenant, of which the *limit* latest are remembered."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._programs: OrderedDict[tuple[str, str], str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._programs)

    def remember(self, tenant: str, response: str, program: str) -> None:
        """*response* was made by a call of *program*."""
        self._programs[tenant, response] = program
        if len(self._programs) > self._limit:
            self._programs.popitem(last=False)

    def program_of(self, tenant: str, response: str) -> str | None:
        """The program of one of the tenant's responses, None if it is not known."""
        return self._programs.get((tenant, response))
