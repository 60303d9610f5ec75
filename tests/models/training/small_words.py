"""A folder as a distillation leaves it, with students of random weights and names of random embeddings."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional

from models.synthetic.sprites import read_names
from models.tokenizers import vocabulary_size, write_vocabulary
from models.training.distillation import BERT, CLIP_TEXT, CORPUS, DIMENSIONS, TOKENIZER, Students


def write_small_words(folder: Path) -> Path:
    """Write it for the objects of the bundled list of names."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = [item.label for item in read_names()]
    write_vocabulary(labels, folder / TOKENIZER)
    targets = functional.normalize(torch.randn(len(labels), DIMENSIONS), dim=1)
    torch.save({"texts": labels, "names": len(labels), "targets": targets}, folder / CORPUS)
    students = Students(vocabulary_size(folder / TOKENIZER))
    save_file(students.clip.state_dict(), folder / CLIP_TEXT)
    save_file(students.bert.state_dict(), folder / BERT)
    return folder
