"""Standard output and error of the commands: any encoding can carry them, and a pipe that closes ends no traceback."""

import codecs
import errno
import os
import sys
from typing import TextIO

# Name of the codec error handler, which JSON readers understand: \uXXXX, above that two of them.
_ESCAPE = "openset.escape"


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{text[i]:02x}{text[i + 1]:02x}" for i in range(0, len(text), 2)), error.end


def escape_what_cannot_be_encoded() -> None:
    """Let stdout and stderr write characters that their encoding lacks as \\uXXXX, instead of failing."""
    codecs.register_error(_ESCAPE, _escaped)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a test's or a notebook's stand-in may have none
        if reconfigure:
            reconfigure(errors=_ESCAPE)


def is_of_output(error: OSError) -> bool:
    """True where a write failed, of no named file, for want of a reader or of space."""
    return error.filename is None and error.errno in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)


def flush_output() -> OSError | None:
    """Write out what stdout holds; the error where its reader has gone or its disk is full."""
    if sys.stdout is None:  # closed by the caller (`>&-`)
        return None
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)
        return error
    return None


def _discard(stream: TextIO) -> None:
    # Python would try again at its end, and report that failure as an ignored exception.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
