"""Configuration of the toy family."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ToyConfig:
    """Vocabulary size and embedding size."""

    vocab_size: int
    embed_dim: int = 8
