"""The engine side: together with ``patches``, the only code that imports ``sglang.srt`` or torch.

Importing this package prepares the process for SGLang (see `platform.prepare`). It is the one
import side effect of the project, and it has to be one: SGLang spawns its processes, each child
starts from a bare interpreter, and what it unpickles first is a function of this package or of
``autellix_sgl.launch_server``. Preparing at import is what reaches every one of them before their
first ``import sglang``. It takes about a millisecond, imports neither torch nor sglang, and a
second call changes nothing. On a machine with a GPU it does nothing at all.
"""

from autellix_sgl.runtime.launch.platform import prepare

prepare()
