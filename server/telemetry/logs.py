"""Lines of the log, as text or as JSON: each names the request it belongs to, none what a client sent."""

import json
import logging
import sys
import time
import warnings
from contextvars import ContextVar
from typing import Any, Protocol

from server.settings import Settings

_TIME = "%Y-%m-%dT%H:%M:%S"
# Libraries that, asked for detail, would log what clients send, or warn of it.
_TALKATIVE = ("python_multipart", "PIL")
access = logging.getLogger("server.access")


class LogContext(Protocol):
    """Ids that each line of the log names."""

    @property
    def request_id(self) -> str: ...
    @property
    def trace_id(self) -> str: ...


# Of the request being answered.
current: ContextVar[LogContext | None] = ContextVar("log_context", default=None)


def configure(settings: Settings) -> None:
    """Log to stderr as the settings say, everything of this process in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"PIL\.")


def log_access(level: int, **fields: Any) -> None:
    """One line for one request; `fields` are the line as text and members of it as JSON."""
    access.log(level, "%s", _words(fields), extra={"fields": fields})


class TextLines(logging.Formatter):
    """`time LEVEL logger: message id=...`, and the traceback beneath."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}"
        if context := current.get():
            line += f" id={context.request_id}" + (f" trace={context.trace_id}" if context.trace_id else "")
        return "\n".join([line, *_traceback(self, record)])


class JsonLines(logging.Formatter):
    """An object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        fields: dict[str, Any] | None = getattr(record, "fields", None)
        line |= {"message": record.getMessage()} if fields is None else {"message": "request"} | fields
        if context := current.get():
            line["request_id"] = context.request_id
            if context.trace_id:
                line["trace_id"] = context.trace_id
        if traceback := _traceback(self, record):
            line["exception"] = "\n".join(traceback)
        return json.dumps(line, default=str)


def _words(fields: dict[str, Any]) -> str:
    return " ".join(f"{name}={_word(value)}" for name, value in fields.items())


def _word(value: Any) -> str:
    """As it is where that is one word, else quoted: nobody writes lines of their own into the log."""
    if isinstance(value, str) and value and value.isprintable() and " " not in value:
        return value
    return json.dumps(value, default=str)


def _time(record: logging.LogRecord) -> str:
    return f"{time.strftime(_TIME, time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    return [formatter.formatException(record.exc_info)] if record.exc_info else []
