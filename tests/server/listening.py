"""An app on a real socket, served by the real HTTP server in a thread of this process."""

import contextlib
import socket
import threading

import uvicorn

from server.middleware.http_protocol import ProblemProtocol
from server.middleware.uvicorn_server import GracefulServer


@contextlib.contextmanager
def listening(app, *, shutdown_timeout_s=30):
    """Serves `app`; yields its (host, port) and the server."""
    config = uvicorn.Config(app, http=ProblemProtocol, log_config=None, timeout_graceful_shutdown=shutdown_timeout_s)
    server = GracefulServer(config, on_stop=lambda: setattr(app.state, "stopping", True))
    # Only where the protocol is named, asyncio sends what is written without waiting for more.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        running = threading.Thread(target=server.run, args=([listener],))
        running.start()
        try:
            yield listener.getsockname(), server
        finally:
            server.should_exit = True
            running.join()
