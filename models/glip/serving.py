"""Serving rules of GLIP, as its engine/predictor_glip.py and its evaluation run it."""

from pathlib import Path

from models.family import ServingRules
from models.glip.model import Glip
from models.tokenizers import text_rules
from server.contract.manifest import Buckets, DetectionRules, Preprocessing

MEAN, STD = (103.530, 116.280, 123.675), (57.375, 57.120, 58.395)  # blue, green, red in 0..255 (configs/pretrain)
MAX_TOKENS = 256


def serving_rules(model: Glip, tokenizer_file: Path) -> ServingRules:
    """Rules of a GLIP; an image is padded to multiples of 32, as the official code pads one that is alone."""
    positions = model.config.text.max_positions
    return ServingRules(
        preprocessing=Preprocessing(
            resize="shorter_longer", shorter=800, longer=1333, channels="bgr", scale=1.0, mean=MEAN, std=STD
        ),
        text=text_rules(tokenizer_file, "phrases", max_tokens=min(MAX_TOKENS, positions), attention="prompt"),
        detection=DetectionRules(
            labels_per_box="all",
            box_edges="inclusive",
            box_threshold=0.7,
            text_threshold=0.25,
            nms_iou=0.6,
            max_detections=100,
        ),
        buckets=Buckets(pixel_multiple=32, tokens=(16, 32, 64, 128, MAX_TOKENS), max_batch=4),
    )
