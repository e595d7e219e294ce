"""``autellix_sgl.RuntimeEndpoint``: SGLang's language on a machine with a GPU or without.

Without one, ``import sglang`` works in a process that has been prepared, so import this first.
"""

import autellix_sgl.runtime  # noqa: F401 (its import prepares this process)
from autellix_sgl.frontend.sglang_lang import RuntimeEndpoint

__all__ = ["RuntimeEndpoint"]
