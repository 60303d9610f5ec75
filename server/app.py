"""The HTTP app, and the `serve` command that runs it."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from PIL import Image
from starlette.exceptions import HTTPException

from server.bundle import Bundle
from server.contract.text import PromptError
from server.errors import Fault, FieldFault, InvalidRequest, kind_of, problem_response
from server.inference.pipeline import Pipeline
from server.middleware.auth import Keys
from server.middleware.graceful_shutdown import GracefulServer
from server.middleware.image_fetcher import Fetcher, FetchLimits
from server.middleware.request_context import request_context
from server.middleware.request_middleware import RequestMiddleware
from server.middleware.uvicorn_protocol import ProblemProtocol
from server.registry.daemon_thread import in_daemon_thread
from server.registry.hot_swap import HotSwap
from server.registry.model_cache import PullFailed, with_models
from server.registry.model_registry import ModelRegistry, open_bundles
from server.routes import admin, classify, detect, page, similarity, system
from server.routes import docs as documentation
from server.routes.open_inference import endpoints as open_inference
from server.routes.openapi import with_keys, with_problem_type
from server.settings import Settings, SettingsError, read_settings, shown_default
from server.telemetry import logs
from server.telemetry.metrics import Metrics, package_version
from server.telemetry.tracing import open_tracing

log = logging.getLogger(__name__)

FLUSH_WITHIN_S = 5
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_METAVARS: dict[object, str] = {
    int: "INTEGER",
    float: "NUMBER",
    Path | None: "PATH",
    "bundle": "PATH",
    "bundle_roots": "PATH",
    "model": "NAME",
}


def create_app(
    settings: Settings | None = None,
    bundles: Sequence[Bundle] | None = None,
    *,
    on_failure: Callable[[], None] | None = None,
    fetcher: Fetcher | None = None,
) -> FastAPI:
    """The app. `bundles` are served from the start; without them those of the settings are loaded in the background.

    Until they are loaded `/readyz` answers 503; where that fails `on_failure` is called. `fetcher` gets images by URL.
    """
    settings = settings or read_settings()
    keys = Keys(settings.api_keys_file) if settings.api_keys_file else None
    metrics = Metrics()
    tracing = open_tracing(settings)
    registry = ModelRegistry(settings, metrics, tracing)
    pipeline = Pipeline(settings, metrics, registry)
    changes = HotSwap(settings, pipeline)

    def open_and_load() -> None:
        Image.init()  # which the first picture would wait for
        registry.load(open_bundles(settings))

    async def load() -> None:
        try:
            await in_daemon_thread(open_and_load, name="load")
        except Exception as error:
            registry.failure = error
            if on_failure:
                on_failure()  # who started the app tells
            else:
                log.error("the bundles could not be loaded: %s", error)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = None
        if bundles is None:
            loading = asyncio.create_task(load())
        else:
            await asyncio.to_thread(registry.load, bundles)
        yield
        if loading and loading.cancel():
            log.warning("the server stops while its bundles are being loaded")
        await changes.close()
        await asyncio.to_thread(pipeline.close)
        with suppress(TimeoutError):
            await asyncio.wait_for(in_daemon_thread(tracing.close, name="traces"), FLUSH_WITHIN_S)

    app = _App(
        title="Openset",
        summary="Open-set detection, zero-shot classification and image-text similarity.",
        version=package_version("openset"),
        lifespan=lifespan,
        docs_url=None,  # the usual pages load scripts from elsewhere: ours works offline
        redoc_url=None,
        # FastAPI's own, where it has any, would put the query, which may hold labels, into its spans.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        redirect_slashes=False,  # a redirect is no answer, and this one repeats the Host header a client made up
    )
    app.state.stopping = False
    app.state.pipeline, app.state.keys, app.state.open_endpoints = pipeline, keys, settings.open_endpoints
    app.state.changes = changes
    app.state.fetcher = fetcher or (Fetcher(FetchLimits.of(settings)) if settings.url_images else None)
    app.add_middleware(
        RequestMiddleware,
        settings=settings,
        metrics=metrics,
        keys=keys,
        retry_after=registry.retry_after,
        tracing=tracing,
    )
    for error in (Fault, PromptError, HTTPException, RequestValidationError):
        app.add_exception_handler(error, _refuse)
    for room in (detect, classify, similarity, system, open_inference, documentation):
        app.include_router(room.router)
    if settings.bundle_roots:
        app.include_router(admin.router)
    if settings.page:
        app.router.routes.extend(page.routes())
    return app


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        document = with_problem_type(super().openapi())
        return with_keys(document, open_endpoints=self.state.open_endpoints) if self.state.keys else document


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        error = InvalidRequest([FieldFault(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()])
    pipeline: Pipeline = request.app.state.pipeline
    pipeline.metrics.reject(kind_of(error))
    return problem_response(error, request_id=request_context(request.scope).request_id, path=request.scope["path"])


def serve(settings: Settings) -> int:
    """Run the server until it is told to stop; 2 where its bundles cannot be served."""
    logs.configure(settings)
    if settings.api_keys_file is None and settings.host not in _LOOPBACK:
        log.warning("listening on %s without api_keys_file: whoever reaches it may use it", settings.host)
    app = create_app(settings, on_failure=lambda: setattr(server, "should_exit", True))
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        log_config=None,
        access_log=False,  # it would hold whatever clients put in a URL; the gate logs its own
        http=ProblemProtocol,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
    )
    pipeline: Pipeline = app.state.pipeline

    def stop() -> None:
        app.state.stopping = True
        pipeline.stop()

    server = GracefulServer(config, on_stop=stop)
    # Once it has stopped, uvicorn raises the signal that stopped it again: what was asked for is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        server.run()
    except SystemExit:  # it could not listen, and has logged why
        print(
            f"openset serve: {settings.host}, port {settings.port}, cannot be listened on: give another --port"
            " (0 takes a free one) or --host",
            file=sys.stderr,
        )
        return 2
    if not pipeline.ended:
        log.error("not all was finished within shutdown_timeout_s=%d: ending regardless", settings.shutdown_timeout_s)
        logging.shutdown()
        os._exit(1)  # the ordinary end would wait for threads, or pull the runtime away under them
    failure: Exception | None = pipeline.registry.failure
    if failure:
        print(f"openset serve: {failure}", file=sys.stderr)
        return 2
    return 0 if server.started else 1


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """The flags of `serve`: every setting by its name; a flag goes before the environment, that before the file."""
    parser.add_argument("--config", type=Path, metavar="PATH", help="TOML file of settings, by the names of the flags")
    for name, field in Settings.model_fields.items():
        flag, default = "--" + name.replace("_", "-"), field.get_default()
        options: dict[str, Any] = {
            "default": argparse.SUPPRESS,
            "help": f"{field.description} [{shown_default(default)}]",
        }
        if isinstance(default, bool):
            options["action"] = argparse.BooleanOptionalAction
        elif isinstance(default, tuple):
            options |= {"action": "append", "metavar": _METAVARS.get(name, "WORDS")}
        else:
            options["metavar"] = _METAVARS.get(field.annotation, "TEXT")
        parser.add_argument(flag, **options)
    parser.add_argument(
        "--no-warm-up",
        dest="warm_up",
        action="store_const",
        const="none",
        default=argparse.SUPPRESS,
        help="the same as --warm-up none",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """The `serve` command."""
    given = {name: value for name, value in vars(args).items() if name in Settings.model_fields}
    try:
        return serve(with_models(read_settings(args.config, **given)))
    except PullFailed as error:
        print(f"openset serve: {error}", file=sys.stderr)
        return error.status
    except SettingsError as error:
        print(f"openset serve: {error}", file=sys.stderr)
        return 2
