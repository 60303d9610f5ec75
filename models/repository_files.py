"""Choice of the files that are fetched from a repository, by the names and sizes that the hub lists."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from models import listed
from models.files_beside import MAX_JSON, OPEN_CLIP_FILE
from models.hub_client import HubError
from models.model_zoo import HF_WEIGHTS, MODEL_TYPES, OFFICIAL, Official

_SHARD = r"{stem}-\d{{5}}-of-\d{{5}}\.{suffix}"
_WEIGHTS = re.compile(r"[A-Za-z0-9][\w.-]*\.(safetensors|bin|pth|pt)", re.ASCII)
# State of a training run, which programs push beside the weights.
_TRAINING_STATE = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state)\b.*")


def weights_of(official: Official, names: Collection[str]) -> list[str]:
    """The files with the weights: one, or an index and its shards, by the first of the known names that is there.

    A repository that no name stands for may have one file of weights under any name. HubError where there is none, or
    a choice.
    """
    for name in official.weights:
        if name in names:
            return [name]
        index = f"{name}.index.json"
        if index in names:
            stem, _, suffix = name.rpartition(".")
            pattern = re.compile(_SHARD.format(stem=re.escape(stem), suffix=suffix))
            return [index, *sorted(other for other in names if pattern.fullmatch(other))]
    others = sorted(name for name in names if _WEIGHTS.fullmatch(name) and not _TRAINING_STATE.match(name))
    if official.is_any and len(others) == 1:
        return others
    raise HubError(f"{official.repository} has none of {', '.join(official.weights)}: {_instead(official, others)}")


def _instead(official: Official, others: list[str]) -> str:
    own = [name for name, known in OFFICIAL.items() if known.repository == official.repository]
    if official.is_any and own:
        return f"its models are pulled by name, {' or '.join(own)}"
    if official.is_any and others:
        return (
            f"it has {listed(others)}. Download the one you want and what lies beside it, then openset export"
            " --checkpoint FILE --out FOLDER"
        )
    return "it holds no weights of these families" if official.is_any else "it may have changed"


def check_size_of_settings(official: Official, name: str, size: int) -> None:
    """HubError for a file beside the weights that is larger than any that is read."""
    if size > MAX_JSON:
        raise HubError(f"{official.repository}: {name} has {size} bytes, {MAX_JSON} at most are read")


def check_model_type(official: Official, names: Collection[str], config: Mapping[str, Any] | None) -> None:
    """HubError where a config.json says that the weights of transformers are another model's, before they are fetched.

    A config.json beside weights of another program may describe something else.
    """
    kind = (config or {}).get("model_type")
    theirs = any(name.removesuffix(".index.json") in HF_WEIGHTS for name in names)
    if kind is None or kind in MODEL_TYPES or not theirs or OPEN_CLIP_FILE in names:
        return
    raise HubError(
        f"{official.repository} is a model of another family: its config.json has model_type {kind!r}, supported are"
        f" {', '.join(MODEL_TYPES)}. Its weights were not fetched"
    )
