import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.nn import functional

from models.layers.bert import Bert, BertConfig
from models.synthetic.sentence_encoder import LAYER_KEYS, MODULE_KEYS, SentenceEncoder
from models.tokenizers import bert_wordpiece


def hugging_face_name(ours: str) -> str:
    module, _, parameter = ours.rpartition(".")
    if module in MODULE_KEYS:
        return f"{MODULE_KEYS[module]}.{parameter}"
    _, layer, rest = module.split(".", 2)
    return f"encoder.layer.{layer}.{LAYER_KEYS[rest]}.{parameter}"


def write_sentence_encoder(folder: Path) -> Path:
    """A small sentence encoder with random weights, stored as all-MiniLM-L6-v2 is."""
    tokenizer = bert_wordpiece()
    tokenizer.save(str(folder / "tokenizer.json"))
    sizes = {
        "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 64, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(sizes))
    torch.manual_seed(0)
    bert = Bert(BertConfig(sizes["vocab_size"], 32, 2, 4, 48, 64, 2))
    tensors = {hugging_face_name(name): value for name, value in bert.state_dict().items()}
    save_file({**tensors, "pooler.dense.weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentence_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> SentenceEncoder:
    return SentenceEncoder(folder)


def test_an_embedding_is_the_mean_of_the_token_states(encoder: SentenceEncoder, folder: Path):
    ids = torch.tensor([Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a red dog").ids])
    length = ids.shape[1]
    everything = torch.ones(1, length, length, dtype=torch.bool)
    with torch.no_grad():
        states = encoder.bert(ids, torch.arange(length)[None], everything)
    assert torch.allclose(encoder.encode(["a red dog"]), functional.normalize(states.mean(1), dim=1), atol=1e-6)


def test_an_embedding_does_not_depend_on_the_other_texts(encoder: SentenceEncoder):
    together = encoder.encode(["dog", "a photo of a large red kangaroo", "cat"])
    assert torch.allclose(together[2], encoder.encode(["cat"])[0], atol=1e-6)
