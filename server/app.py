"""The HTTP app, and the `serve` command that runs it."""

import argparse
import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Mount, Route

from server.bundle import Bundle
from server.contract.text import PromptError
from server.errors import Fault, FieldFault, InvalidRequest, kind_of, problem_response
from server.inference.decoder_forks import SUPPORTED
from server.inference.decoders import FORKS, ProcessDecoders
from server.jobs.jobs import Jobs
from server.memory.heap import freeze_objects, limit_arenas, trim_for_ever
from server.memory.process_resources import open_files_limit
from server.middleware.admission import Admission
from server.middleware.auth import Keys
from server.middleware.connection_limit import ConnectionLimit, LimitedProtocol, LimitedServer
from server.middleware.endpoints import Endpoints, local_path
from server.middleware.image_fetcher import ImageFetcher
from server.middleware.request_middleware import RequestMiddleware
from server.predictor import InferenceService
from server.registry.daemon_thread import any_daemon_thread, end_process, in_daemon_thread
from server.registry.hot_swap import HotSwap
from server.registry.model_cache import PullFailed, with_models
from server.request_context import request_context
from server.routes import admin, classify, detect, docs, embed, jobs, page, similarity, system
from server.routes.documents import DocumentCache, SharedRendering
from server.routes.open_inference import endpoints as open_inference
from server.routes.openapi import completed
from server.settings import Settings, SettingsError, odd_variables, read_settings
from server.stop_signals import STOP
from server.telemetry import logs
from server.telemetry.metrics import package_version

log = logging.getLogger(__name__)

FLUSH_WITHIN_S = 5
# After `shutdown_timeout_s`: for what has bounds of its own (connections, traces), before the process just ends.
OVERTIME_S = 10
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def create_app(
    settings: Settings | None = None,
    bundles: Sequence[Bundle] | None = None,
    *,
    on_failure: Callable[[], None] | None = None,
    on_ready: Callable[[], Awaitable[None]] | None = None,
    fetcher: ImageFetcher | None = None,
    routers: Sequence[APIRouter] = (),
) -> FastAPI:
    """The app. `bundles` are served from the start; without them those of the settings are loaded in the background.

    Until they are loaded `/readyz` answers 503; where that fails `on_failure` is called, else `on_ready`.
    `fetcher` fetches image URLs; `routers` have endpoints beside the usual ones.
    """
    settings = settings or read_settings()
    keys = Keys(settings.api_keys_file) if settings.api_keys_file else None
    service = InferenceService(settings, decoders=ProcessDecoders(settings) if SUPPORTED else None)
    service.metrics.watch_decoders(FORKS.cpu_seconds)
    registry = service.registry
    hot_swap = HotSwap(settings, registry, forget=service.pipeline.forget)

    async def load() -> None:
        log.info("loading the bundles; requests are answered once they are ready")
        try:
            await in_daemon_thread(service.load, name="load")
        except Exception as error:
            registry.failure = error
            if on_failure:
                on_failure()
            else:
                log.error("the bundles could not be loaded: %s", error)
            return
        await in_daemon_thread(freeze_objects, name="load")
        if on_ready:
            await on_ready()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = None
        if bundles is None:
            loading = asyncio.create_task(load())
        else:
            await asyncio.to_thread(service.load, bundles)
        trimming = asyncio.create_task(trim_for_ever())
        yield
        trimming.cancel()
        await app.state.jobs.close()
        if loading and loading.cancel():
            log.warning("the server stops while its bundles are being loaded")
        await hot_swap.close()
        if app.state.fetcher:
            app.state.fetcher.close()
        await asyncio.to_thread(service.close)
        with suppress(TimeoutError):
            await asyncio.wait_for(in_daemon_thread(service.tracing.close, name="traces"), FLUSH_WITHIN_S)

    app = _App(
        title="Openset",
        summary="Open-set detection, zero-shot classification and image-text similarity.",
        version=package_version("openset"),
        lifespan=lifespan,
        license_info={"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        generate_unique_id_function=lambda route: route.name,  # the names of methods in generated clients
        openapi_url=None,  # rendered once, by a route of our own
        docs_url=None,  # the usual pages load scripts from elsewhere: ours works offline
        redoc_url=None,
        # FastAPI's own, where it has any, would put the query, which may hold labels, into its spans.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        redirect_slashes=False,  # a redirect would repeat the Host header that a client made up
    )
    app.state.stopping = False
    app.state.service, app.state.pipeline, app.state.registry = service, service.pipeline, registry
    app.state.keys, app.state.open_endpoints, app.state.hot_swap = keys, settings.open_endpoints, hot_swap
    app.state.fetcher = fetcher or (ImageFetcher(settings) if settings.url_images else None)
    admission = Admission(settings, retry_after=registry.retry_after)
    app.state.jobs = Jobs(service.pipeline, admission, app.state.fetcher)
    app.state.documents, app.state.metrics_page = DocumentCache(), SharedRendering(service.metrics.exposition)
    templates = _add_routes(app, settings, routers)
    app.add_middleware(
        RequestMiddleware,
        settings=settings,
        endpoints=Endpoints(templates),
        metrics=service.metrics,
        keys=keys,
        admission=admission,
        tracing=service.tracing,
    )
    for error in (Fault, PromptError, HTTPException, RequestValidationError):
        app.add_exception_handler(error, _problem)
    return app


def _add_routes(app: FastAPI, settings: Settings, routers: Sequence[APIRouter]) -> list[str]:
    """Add the endpoints that the settings ask for, behind those of `routers`; the path templates of all."""
    routers = [*routers, detect.router, classify.router, similarity.router, embed.router]
    if settings.max_jobs:
        routers.append(jobs.router)
    routers += [system.router, open_inference.router, docs.router]
    if settings.bundle_roots:
        routers.append(admin.router)
    for router in routers:
        app.include_router(router)
    app.router.routes.extend(docs.routes())
    if settings.page:
        app.router.routes.extend(page.routes())
    routes = [*app.router.routes, *(route for router in routers for route in router.routes)]
    mounted = [f"{route.path}/{{path:path}}" for route in routes if isinstance(route, Mount)]
    return [*(route.path for route in routes if isinstance(route, Route)), *mounted]


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = completed(
                super().openapi(),
                keys=self.state.keys is not None,
                open_endpoints=self.state.open_endpoints,
                url_images=self.state.fetcher is not None,
            )
        return self.openapi_schema


async def _problem(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        error = InvalidRequest([FieldFault(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()])
    service: InferenceService = request.app.state.service
    service.metrics.reject(kind_of(error))
    return problem_response(error, request_id=request_context(request.scope).request_id, path=local_path(request.scope))


def serve(settings: Settings) -> int:
    """Run the server until a signal stops it; exit status 2 where its bundles cannot be served."""
    logs.configure(settings)
    limit_arenas()
    for sentence in odd_variables():
        log.warning(sentence)
    if settings.api_keys_file is None and settings.host not in _LOOPBACK:
        log.warning("listening on %s without api_keys_file: anyone who reaches it may use it", settings.host)
    limit = ConnectionLimit(open_files_limit(), proxies=settings.trusted_proxies)

    async def announce() -> None:
        while not server.started:
            await asyncio.sleep(0.05)
        log.info("ready: open %s", _address(server, page=settings.page))

    app = create_app(settings, on_failure=lambda: setattr(server, "should_exit", True), on_ready=announce)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        log_config=None,
        access_log=False,  # it would hold what clients put in a URL; the middleware logs its own
        http=partial(LimitedProtocol, limit=limit),  # type: ignore[arg-type]
        backlog=limit.backlog,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
    )
    service: InferenceService = app.state.service

    def give_up() -> None:
        log.error("the server does not end within shutdown_timeout_s=%d: ending it", settings.shutdown_timeout_s)
        end_process(0)

    overtime = threading.Timer(settings.shutdown_timeout_s + OVERTIME_S, give_up)
    overtime.daemon = True

    def stop() -> None:
        app.state.stopping = True
        app.state.jobs.stop()
        service.stop()
        overtime.start()

    server = LimitedServer(config, on_stop=stop)
    try:
        with STOP.leading_to(lambda: setattr(server, "should_exit", True)):
            server.run()
    except SystemExit:  # it could not listen, and has logged the reason
        print(
            f"openset serve: cannot listen on {settings.host}, port {settings.port}: give another --port"
            " (0 takes a free one) or --host",
            file=sys.stderr,
        )
        return 2
    finally:
        overtime.cancel()  # it would end a process that goes on without this server
    FORKS.close()
    if not service.finished:
        log.error("not all was finished within shutdown_timeout_s=%d: ending regardless", settings.shutdown_timeout_s)
        end_process(0)
    failure: Exception | None = service.registry.failure
    if failure and not STOP.requested:
        print(f"openset serve: {failure}", file=sys.stderr)
        return 2
    return 0 if server.started or STOP.requested else 1


def _address(server: uvicorn.Server, *, page: bool) -> str:
    """The address for a browser on this machine."""
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return f"{address} (API: {address}/docs)" if page else f"{address}/docs"


def run(args: argparse.Namespace) -> int:
    """The `serve` command."""
    given = {name: value for name, value in vars(args).items() if name in Settings.model_fields}
    try:
        status = serve(with_models(read_settings(args.config, **given)))
    except PullFailed as error:
        print(f"openset serve: {error}", file=sys.stderr)
        return error.status
    except SettingsError as error:
        print(f"openset serve: {error}", file=sys.stderr)
        return 2
    if any_daemon_thread():
        end_process(status)
    return status
