"""PyTorch models of the families: checkpoints, losses, training and evaluation.

Errors of loading a checkpoint:

CheckpointError (ValueError)
├── UnreadableCheckpoint      missing, truncated, or of an unknown container
├── UnsafeCheckpoint          a pickle with more than tensors; nothing in it was executed
├── UnknownCheckpoint         tensors of an unknown family or size
└── WeightsDoNotFit           keys missing, left over, or of a wrong shape, all of them named
"""

from collections.abc import Sequence

SHOWN_KEYS = 40
_SHOWN_LETTERS = 200


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message says why, on one line whatever the checkpoint holds."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class UnreadableCheckpoint(CheckpointError):
    """The file or folder is missing, damaged, or of an unknown container."""


class UnsafeCheckpoint(CheckpointError):
    """The pickle refers to something other than tensors; it was not executed."""


class UnknownCheckpoint(CheckpointError):
    """The tensors belong to no known family or size."""


class WeightsDoNotFit(CheckpointError):
    """Stored and expected tensors differ; `missing`, `left_over` and `wrong` name all of them."""

    def __init__(
        self, *, missing: Sequence[str] = (), left_over: Sequence[str] = (), wrong: Sequence[str] = (), path: str = ""
    ) -> None:
        self.missing, self.left_over, self.wrong = tuple(missing), tuple(left_over), tuple(wrong)
        faults = [("missing", self.missing), ("left over", self.left_over), ("of a wrong shape", self.wrong)]
        text = "; ".join(f"{len(keys)} {fault}: {listed(keys)}" for fault, keys in faults if keys)
        super().__init__(f"{path or 'the checkpoint'} does not fit the model and was not loaded; keys {text}")


def listed(keys: Sequence[str]) -> str:
    """The first keys, and the number of the others."""
    more = f", and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(_shortened(key) for key in keys[:SHOWN_KEYS]) + more


def printable(text: str) -> str:
    """The text on one line, with what a terminal would obey (line breaks, control codes) escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _shortened(key: str) -> str:
    return key if len(key) <= _SHOWN_LETTERS else f"{key[:_SHOWN_LETTERS]}…"
