import random

import numpy as np

from models.training.class_texts import TemplateTexts


class Words:
    """Encodes each text as the number of its characters, and remembers it."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: list[str]) -> np.ndarray:
        self.texts += texts
        return np.asarray([[len(text)] for text in texts])


def test_names_are_filled_into_one_template_a_step_and_into_the_first_to_validate():
    words = Words()
    texts = TemplateTexts(["cat", "hot dog"], ["{}", "a photo of a {}."], words)
    assert texts.labels.tolist() == [[3], [7]]
    drawn = {tuple(texts.input_ids(random.Random(seed)).flatten().tolist()) for seed in range(20)}
    assert drawn == {(3, 7), (17, 21)}
    assert "a photo of a hot dog." in words.texts
    assert texts.embeddings(random.Random(0)) is None
