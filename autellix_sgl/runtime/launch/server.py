"""SGLang's HTTP server with our tokenizer manager, schedulers and routes in place of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from sglang.srt.arg_groups.model_override_base import resolving_view
from sglang.srt.entrypoints import http_server
from sglang.srt.runtime_context import get_serving
from sglang.srt.server_args import PortArgs, ServerArgs
from starlette.middleware import Middleware

from autellix_sgl.config import AUTO, ProgramArgs
from autellix_sgl.runtime.http import programs_api
from autellix_sgl.runtime.http.identity_middleware import IdentityMiddleware
from autellix_sgl.runtime.http.tenant_middleware import TenantMiddleware
from autellix_sgl.runtime.http.tenants import Tenants
from autellix_sgl.runtime.launch import processes
from autellix_sgl.runtime.launch.calibration import calibrate_from_thread
from autellix_sgl.runtime.launch.support import check_supported
from autellix_sgl.runtime.tokenizer.manager import ProgramTokenizerManager
from autellix_sgl.runtime.tokenizer.opening import OwnAddress, OwnRequests


def launch(
    server_args: ServerArgs, program_args: ProgramArgs, *, on_ready: Callable[[], None]
) -> None:
    """Run the server until it stops; *on_ready* is called once it answers.

    With the stock policy this is SGLang's own launch (on the CPU with our attention backend, if
    that is the one asked for). Raises ConfigError for a mode that does not fit, ActivationError if
    SGLang is not the version we know.
    """
    if program_args.stock:
        http_server.launch_server(
            server_args,
            run_scheduler_process_func=processes.run_stock_scheduler,
            launch_callback=on_ready,
        )
        return
    server_args.resolve_once()
    check_supported(resolving_view(server_args), program_args)
    processes.activate_main()
    http_server.launch_server(
        server_args,
        init_tokenizer_manager_func=partial(_init_tokenizer_manager, program_args),
        run_scheduler_process_func=partial(processes.run_program_scheduler, program_args),
        run_detokenizer_process_func=processes.run_program_detokenizer,
        execute_warmup_func=partial(_warm_up, program_args),
        launch_callback=on_ready,
    )


def _init_tokenizer_manager(
    program_args: ProgramArgs, server_args: ServerArgs, port_args: PortArgs
) -> Any:
    manager, templates = processes.init_program_tokenizer_manager(
        program_args, server_args, port_args
    )
    app = http_server.app
    programs_api.install(app, manager)
    if _calibrates(program_args):
        manager.opening.close()
        app.user_middleware.append(Middleware(OwnRequests, prefix=manager.opening.prefix))
    # Innermost, so that it sees what SGLang's own middleware has made of the request, such as a
    # body that came compressed.
    app.user_middleware.append(Middleware(IdentityMiddleware, manager=manager))
    if program_args.tenants is not None:
        # Inside of SGLang's check of the admin's key, which is added later and so runs first.
        app.add_middleware(
            TenantMiddleware,
            tenants=Tenants.load(Path(program_args.tenants)),
            admin_key=get_serving().admin_api_key,
        )
    return manager, templates


def _calibrates(program_args: ProgramArgs) -> bool:
    """Whether the start measures the machine: it comes after SGLang's warm-up, if there is one."""
    return program_args.cost_model == AUTO and not get_serving().skip_server_warmup


def _warm_up(program_args: ProgramArgs, server_args: ServerArgs) -> bool:
    """Upstream's warm-up, then the cost model's fit; runs in a thread beside the event loop."""
    manager = http_server._global_state.tokenizer_manager
    assert isinstance(manager, ProgramTokenizerManager)
    calibrates = _calibrates(program_args)
    itself = OwnAddress(server_args, manager.opening.prefix) if calibrates else server_args
    with _known_to_tenancy(program_args):
        warm: bool = http_server._execute_server_warmup(itself)
    if warm and calibrates:
        calibrate_from_thread(manager)
    return warm


def _known_to_tenancy(program_args: ProgramArgs) -> AbstractContextManager[Any]:
    """While it lasts, the server's requests to itself carry the admin's key as their own.

    They are sent with SGLang's ``--api-key``, which a server with tenants does not have.
    """
    if program_args.tenants is None:
        return nullcontext()
    serving = get_serving()
    own_key: AbstractContextManager[Any] = serving.override(api_key=serving.admin_api_key)
    return own_key
