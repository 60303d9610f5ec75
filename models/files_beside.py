"""Files that publishers put beside weights: configurations, the image processor's, the tokenizer, the model card."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import UnreadableCheckpoint
from models.model_card import licence_of

CONFIG_FILE, TOKENIZER_FILE = "config.json", "tokenizer.json"
OPEN_CLIP_FILE = "open_clip_config.json"
PREPROCESSOR_FILE, PROCESSOR_FILE = "preprocessor_config.json", "processor_config.json"
# An index of shards with a hundred thousand tensors has less.
MAX_JSON = 32 * 2**20


@dataclass(frozen=True)
class FilesBeside:
    """Contents of the files beside weights; None where one is missing.

    processors: settings of the image processor by the name of their file; a `processor_config.json` may hold them too.
    licence: as the model card, the configuration or a licence file says.
    """

    config: dict[str, Any] | None = None
    open_clip: dict[str, Any] | None = None
    processors: tuple[tuple[str, dict[str, Any]], ...] = ()
    tokenizer_file: Path | None = None
    licence: str | None = None

    @classmethod
    def of(cls, folder: Path) -> "FilesBeside":
        """Read the files in a folder; UnreadableCheckpoint names one that is damaged."""
        config, open_clip = _json_in(folder, CONFIG_FILE), _json_in(folder, OPEN_CLIP_FILE)
        processors = [(PREPROCESSOR_FILE, _json_in(folder, PREPROCESSOR_FILE))]
        nested = (_json_in(folder, PROCESSOR_FILE) or {}).get("image_processor")
        if nested is not None and not isinstance(nested, dict):
            raise UnreadableCheckpoint(
                f"{folder / PROCESSOR_FILE}: image_processor is {nested!r}, an object is expected"
            )
        processors.append((PROCESSOR_FILE, nested))
        tokenizer = folder / TOKENIZER_FILE
        return cls(
            config=config,
            open_clip=open_clip,
            processors=tuple((name, settings) for name, settings in processors if settings is not None),
            tokenizer_file=tokenizer if tokenizer.is_file() else None,
            licence=licence_of(folder, config),
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read an object; UnreadableCheckpoint says why it cannot be."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"it has {path.stat().st_size} bytes, {MAX_JSON} at most are read")
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableCheckpoint(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise UnreadableCheckpoint(f"{path} holds a {type(data).__name__}, an object is expected")
    return data


def _json_in(folder: Path, name: str) -> dict[str, Any] | None:
    path = folder / name
    return read_json(path) if path.is_file() else None
