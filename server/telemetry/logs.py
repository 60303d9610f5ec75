"""Log formats, text and JSON: each line has its request's id, and nothing that a client sent."""

import json
import logging
import sys
import time
import warnings
from contextvars import ContextVar
from typing import Any, Protocol

from server.settings import Settings
from server.telemetry.log_handler import RepeatFilter, StderrHandler, cut

_TIME = "%Y-%m-%dT%H:%M:%S"
# Libraries that log, or warn of, what clients send.
_VERBOSE_LIBRARIES = ("python_multipart", "PIL", "httpcore")
access = logging.getLogger("server.access")
# Characters of a message or a value, and of a traceback, of which the end is kept.
_MAX_TEXT, _MAX_TRACEBACK = 8192, 16384


class LogContext(Protocol):
    """The ids that log lines show."""

    @property
    def request_id(self) -> str: ...
    @property
    def trace_id(self) -> str: ...


# The ids of the current request.
current: ContextVar[LogContext | None] = ContextVar("log_context", default=None)


def configure(settings: Settings) -> None:
    """Log everything of this process to stderr, in the format of the settings."""
    handler = StderrHandler(sys.stderr)
    handler.addFilter(RepeatFilter(exempt=access.name))
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    for name in _VERBOSE_LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"PIL\.")


def log_access(level: int, **fields: Any) -> None:
    """Log the line of a request: `fields` as `name=value` in text, as members in JSON."""
    text = " ".join(f"{name}={_quoted(value)}" for name, value in fields.items())
    access.log(level, "%s", text, extra={"fields": fields})


class TextLines(logging.Formatter):
    """`time LEVEL logger: message id=...`, followed by the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname} {record.name}: {cut(record.getMessage(), _MAX_TEXT)}"
        if context := current.get():
            line += f" id={context.request_id}" + (f" trace={context.trace_id}" if context.trace_id else "")
        return "\n".join([line, *_traceback(self, record)])


class JsonLines(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        fields: dict[str, Any] | None = getattr(record, "fields", None)
        if fields is None:
            line["message"] = cut(record.getMessage(), _MAX_TEXT)
        else:
            line |= {"message": "request"} | {name: _bounded(value) for name, value in fields.items()}
        if context := current.get():
            line["request_id"] = context.request_id
            if context.trace_id:
                line["trace_id"] = context.trace_id
        if traceback := _traceback(self, record):
            line["exception"] = "\n".join(traceback)
        return json.dumps(line, default=str)


def _quoted(value: Any) -> str:
    """One word as it is, other values quoted, so that none can forge a log line."""
    if isinstance(value, str) and value and value.isprintable() and " " not in value:
        return value
    return json.dumps(value, default=str)


def _bounded(value: Any) -> Any:
    """A value of a JSON line; a longer one as the start of its JSON."""
    if isinstance(value, int | float) or len(text := json.dumps(value, default=str)) <= _MAX_TEXT:
        return value
    return cut(text, _MAX_TEXT)


def _time(record: logging.LogRecord) -> str:
    return f"{time.strftime(_TIME, time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    if not record.exc_info:
        return []
    return [cut(formatter.formatException(record.exc_info), _MAX_TRACEBACK, keep_end=True)]
