"""What `models.synthetic.distillation` leaves in its folder, for other runs to start from."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

TOKENIZER = "tokenizer.json"
CORPUS = "corpus.pt"
CLIP_TEXT, BERT = "clip_text.safetensors", "bert.safetensors"


def read_places(folder: Path) -> dict[str, Tensor]:
    """Where the teacher puts each text it has read [D], unit length."""
    corpus = torch.load(folder / CORPUS, weights_only=True)
    return dict(zip(corpus["texts"], corpus["targets"], strict=True))


def load_student(folder: Path, file: str, model: nn.Module) -> None:
    """Fill a text encoder with the student of its kind; ValueError where it is of another size."""
    try:
        model.load_state_dict(load_file(folder / file))
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{folder / file} is not the recipe's text encoder: {error}") from error
