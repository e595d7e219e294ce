"""What every process needs before its first ``import sglang`` on a machine without a GPU.

SGLang has a CPU engine, but its wheels are built for CUDA. Three things stand between the two, and
`prepare` settles them in every process:

    SGLANG_USE_CPU_ENGINE   selects the CPU platform; read once, when sglang is imported
    sgl_kernel              has no CPU wheel, yet the CPU path imports some of its names
    torchvision             the registry's wheel does not load on a CPU build of torch, and the
                            part of it that always runs needs two operators to be declared
"""

from __future__ import annotations

import ast
import ctypes
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import torch

CPU_ENGINE = "SGLANG_USE_CPU_ENGINE"

_HIDES_ALL_DEVICES = frozenset({"", "-1", "NoDevFiles"})
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def prepare() -> None:
    """Make ``import sglang`` work in this process; idempotent, and nothing to do on a GPU."""
    if not uses_cpu_engine():
        return
    os.environ[CPU_ENGINE] = "1"
    if importlib.util.find_spec("sgl_kernel") is None:
        sys.modules["sgl_kernel"] = KernelStandIn()
    if not torchvision_is_prepared():
        sys.meta_path.insert(0, TorchvisionOperators())


def uses_cpu_engine() -> bool:
    """Whether SGLang runs on the CPU here: as the environment says, else by the hardware."""
    chosen = os.environ.get(CPU_ENGINE)
    if chosen is not None:
        return chosen == "1"
    return not has_gpu()


@functools.cache
def has_gpu() -> bool:
    """Whether the installed torch can use a GPU of this machine, found without importing torch.

    Only CUDA is examined. A build of torch for another accelerator counts as one that works:
    SGLang knows those better than we do.
    """
    build = _torch_build()
    if build.get("hip") or build.get("xpu"):
        return True
    return build.get("cuda") is not None and _cuda_device_is_visible()


def _torch_build() -> dict[str, str | None]:
    """What the installed torch was built for, by the annotated names of its version file."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return {}
    source = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    return {
        node.target.id: ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(node.value, ast.Constant)
    }


def _cuda_device_is_visible() -> bool:
    """Whether a device exists and is not hidden from this process.

    NVML is asked, never the CUDA driver: initialising the driver here would break every process
    that is forked from this one. A container may lack NVML; then the device nodes decide.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() in _HIDES_ALL_DEVICES:
        return False
    devices = _nvml_device_count()
    if devices is not None:
        return devices > 0
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _nvml_device_count() -> int | None:
    """How many devices NVML knows, or None where it is absent or does not start."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    count = ctypes.c_uint()
    failed = nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    nvml.nvmlShutdown()
    return None if failed else count.value


class KernelStandIn(types.ModuleType):
    """``sgl_kernel`` where it is not installed: its CPU functions can be imported, not called.

    SGLang's CPU path imports them at module level and calls them for features such as speculative
    decoding, which therefore fail with a message instead of keeping the server from starting. Any
    other name is missing, as upstream's own ``try: import`` expects; so are submodules, since this
    is no package.
    """

    def __init__(self) -> None:
        super().__init__("sgl_kernel", self.__doc__)
        self.__spec__ = importlib.machinery.ModuleSpec("sgl_kernel", loader=None)

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if not name.endswith("_cpu"):
            raise AttributeError(f"sgl_kernel is not installed, so there is no sgl_kernel.{name}")
        return _missing_kernel(name)


def _missing_kernel(name: str) -> Callable[..., NoReturn]:
    def missing(*_args: object, **_kwargs: object) -> NoReturn:
        raise NotImplementedError(
            f"this needs sgl_kernel.{name}, and sgl_kernel has no CPU build here: build "
            f"sglang-kernel for the CPU, use a GPU, or leave out the flag or model that needs it"
        )

    missing.__name__ = name
    return missing


class TorchvisionOperators(importlib.abc.MetaPathFinder):
    """Declares torchvision's operators the moment that torchvision is first looked for.

    It finds nothing itself. Declaring them in `prepare` would be simpler, but needs torch, which
    takes seconds to import; most of what prepares a process (``--help``, a port check) never
    comes to torchvision.
    """

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> None:
        """Declare the operators before ``torchvision`` is found by the next finder."""
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare_torchvision_operators()


def torchvision_is_prepared() -> bool:
    """Whether importing torchvision works here: it was imported, or its operators are seen to."""
    return "torchvision" in sys.modules or any(
        isinstance(finder, TorchvisionOperators) for finder in sys.meta_path
    )


# A library's declarations live as long as the object that made them.
_declared: list[torch.library.Library] = []


def _declare_torchvision_operators() -> None:
    """Declare what ``import torchvision`` registers fake kernels for, if its own code cannot load.

    The wheel is a CUDA build: its extension links the CUDA runtime. Without the operators,
    ``import torchvision`` fails, and with it ``import sglang``, whose model configurations need
    its image processors. Nothing implements them here; a text model never calls them.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    import torch

    try:
        torch.ops.load_library(str(Path(spec.origin).with_name("_C.so")))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(operator + _SCHEMA)
        _declared.append(library)
