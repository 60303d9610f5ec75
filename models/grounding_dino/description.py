"""Grounding DINO's configuration and preprocessing as the files beside its weights tell them."""

from typing import Any

from models import UnknownCheckpoint
from models.checkpoints import StoredWeights
from models.grounding_dino.config import GroundingDinoConfig
from models.image_processor import processor_rules

_MODEL_TYPES = ("grounding-dino", "mm-grounding-dino")


def described_config(stored: StoredWeights, container: str) -> dict[str, Any] | None:
    """The config.json beside the weights, which only Hugging Face's container has."""
    return stored.config if container == "huggingface" else None


def preprocessing_rules(stored: StoredWeights, container: str, config: GroundingDinoConfig) -> dict[str, Any]:
    """Preprocessing as the image processor beside the weights tells it; empty where there is none.

    UnknownCheckpoint where an entry cannot be obeyed, or two files contradict each other.
    """
    if container != "huggingface" and (stored.config or {}).get("model_type") not in _MODEL_TYPES:
        return {}  # files of something else in the same folder
    found = {file: processor_rules(settings, file, "grounding_dino") for file, settings in stored.beside.processors}
    for file, rules in found.items():
        if rules["resize"] == "shorter_crop" or "crop" in rules:
            raise UnknownCheckpoint(f"{file} crops images, or bounds no longest_edge; a detector sees the whole image")
    one, *others = found.values() or [{}]
    if any(other != one for other in others):
        raise UnknownCheckpoint(f"{' and '.join(found)} tell different preprocessing: keep the one of these weights")
    return one | ({"longer": None} if one.get("resize") == "square" else {})
