"""Serving rules of the toy family."""

from pathlib import Path

from models.family import ServingRules
from models.tokenizers import text_rules
from server.contract.manifest import ClassificationRules, Preprocessing
from tests.models.toy_family.model import Toy


def serving_rules(model: Toy, tokenizer_file: Path) -> ServingRules:
    return ServingRules(
        preprocessing=Preprocessing(resize="shorter_crop", shorter=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        text=text_rules(tokenizer_file, "sentence", max_tokens=32),
        classification=ClassificationRules(logit_scale=model.logit_scale.exp().item()),
    )
