"""Serving rules of Grounding DINO, as GroundingDINO util/inference.py runs it."""

from pathlib import Path

from models.family import ServingRules
from models.grounding_dino.model import GroundingDino
from models.tokenizers import text_rules
from server.contract.manifest import Buckets, DetectionRules, Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAX_TOKENS = 256


def serving_rules(model: GroundingDino, tokenizer_file: Path) -> ServingRules:
    """Rules of a Grounding DINO: a single image is not padded, overlapping boxes are not suppressed."""
    positions = model.config.text.max_positions
    return ServingRules(
        preprocessing=Preprocessing(resize="shorter_longer", shorter=800, longer=1333, mean=MEAN, std=STD),
        text=text_rules(
            tokenizer_file,
            "phrases",
            max_tokens=MAX_TOKENS,
            max_label_tokens=positions if positions < MAX_TOKENS else None,
        ),
        detection=DetectionRules(box_threshold=0.35, text_threshold=0.25, max_detections=model.config.num_queries),
        buckets=Buckets(pixel_multiple=1, tokens=(16, 32, 64, 128, MAX_TOKENS), max_batch=4),
    )
