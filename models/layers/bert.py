"""BERT encoder without pooler (Devlin et al. 2018), with a mask for token pairs and explicit position ids."""

from torch import Tensor, nn

from models.layers.blocks import Attention, FeedForward
from models.layers.configs import BertConfig


class BertEmbeddings(nn.Module):
    """Sum of word, position and token type 0 embeddings, normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.max_positions, config.width)
        self.token_types = nn.Embedding(config.token_types, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        return self.norm(self.words(input_ids) + self.token_types.weight[0] + self.positions(position_ids))


class BertLayer(nn.Module):
    """Self-attention and feed-forward, each followed by a residual norm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(config.width, config.heads)
        self.norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.ffn = FeedForward(config.width, config.hidden, activation="gelu")
        self.norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x, x, x, mask))
        return self.norm2(x + self.ffn(x))


class Bert(nn.Module):
    """input_ids, position_ids [B, T] int64, mask [B, T, T] bool (True where a token may attend) -> [B, T, width]."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.embeddings = BertEmbeddings(config)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.layers))
        self.apply(_initialise)

    def forward(self, input_ids: Tensor, position_ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embeddings(input_ids, position_ids)
        mask = mask[:, None]  # [B, 1, T, T]
        for layer in self.layers:
            x = layer(x, mask)
        return x


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
