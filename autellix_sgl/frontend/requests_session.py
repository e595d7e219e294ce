"""requests has no hook before a request is sent; its seam is the transport adapter."""

from __future__ import annotations

from typing import Any

from requests.adapters import BaseAdapter

from autellix_sgl.frontend.hooks import Hooks


class LabelledAdapter(BaseAdapter):
    """Sends with another adapter, and has the hooks label what is sent."""

    def __init__(self, inner: BaseAdapter, hooks: Hooks) -> None:
        super().__init__()
        self.inner = inner
        self._hooks = hooks

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        for name, value in self._hooks.labels(request.url, request.headers).items():
            # As bytes: a string would be sent in Latin-1.
            request.headers[name] = value.encode()
        response = self.inner.send(request, *args, **kwargs)
        self._hooks.answered(str(request.url), request.headers, response.headers)
        return response

    def close(self) -> None:
        self.inner.close()


def install(session: Any, hooks: Hooks) -> None:
    """Put the adapter around each of the session's, in place of that of an earlier `install`."""
    for prefix, adapter in list(session.adapters.items()):
        inner = adapter.inner if isinstance(adapter, LabelledAdapter) else adapter
        session.mount(prefix, LabelledAdapter(inner, hooks))
