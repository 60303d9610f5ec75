"""What a detector's tower names things by and what its words mean, led into one space before it learns.

The tower comes from a CLIP that has learnt where word knowledge puts each name, and the words know it too; but what a
detector has between them is fresh, and it takes hundreds of steps until the two find each other. Here the projections
of both sides start as linear maps into the same directions of that space, and the layers behind them let it pass: the
finer levels start by looking at the last, which alone knows names, and a query as what the picture shows at its place.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.glip.heads import EMBEDDING_SCALE
from models.glip.model import Glip
from models.glip.vl_dyhead import TowerLayer
from models.grounding_dino.decoder import DecoderLayer
from models.grounding_dino.deformable import DeformableAttention
from models.grounding_dino.encoder import ImageLayer, TextLayer
from models.grounding_dino.model import GroundingDino
from models.layers.fusion import FusionLayer
from models.training.detectors import padded
from server.contract.text import PromptTokenizer

RIDGE = 1e-3  # of the mean square of a feature
QUIET = 0.1  # what a fresh layer adds to what passes it, of what it would
LAST_LEVEL = 4.0  # logit by which points on the last level outweigh those on others at first
NEARER = 0.15  # how far those points lie from their cell, of what they would: its cells are as large as objects
GLIP_KEY = 0.15  # length of a token's key, which GLIP's initial temperature makes a logit of about ten


@torch.no_grad()
def align(
    model: GroundingDino | Glip, head: nn.Linear, names: Sequence[str], places: Tensor, prompts: PromptTokenizer
) -> None:
    """Lead both sides of a detector into one space, in place.

    `head` led the averaged last map of the tower to the places [N, D] of the names, of unit length.
    """
    lateral = model.pyramid.lateral if isinstance(model, Glip) else model.neck.lateral
    last = next(layer for layer in lateral[-1].modules() if isinstance(layer, nn.Conv2d))
    mean, directions = shared_directions(places, last.out_channels)
    wanted = (places - mean) @ directions.T
    scale = 1 / wanted.std()
    _set(last, scale * directions @ head.weight, scale * directions @ (head.bias - mean))
    if isinstance(model, Glip):
        states = functional.normalize(_states(model, names, prompts), dim=1) * EMBEDDING_SCALE
        _set(model.token_alignment.text_proj, *ridge(states, functional.normalize(wanted, dim=1) * GLIP_KEY))
        _quieten(lateral[:-1])
        _let_pass_glip(model)
    else:
        _set(model.text_proj, *ridge(_states(model, names, prompts), scale * wanted))
        _let_pass_grounding_dino(model)


def shared_directions(places: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The mean [D] of places [N, D], and the directions [width, D] that tell most of them apart, turned at random.

    Turned, since norms by groups of channels would otherwise make the least direction as strong as the first.
    """
    mean = places.mean(0)
    directions = torch.linalg.svd(places - mean, full_matrices=False).Vh[:width]
    turn = torch.linalg.qr(torch.randn(width, len(directions))).Q
    return mean, turn @ directions


def ridge(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The weight [d, C] and bias [d] that lead features [n, C] to targets [n, d] with the least squares."""
    features, targets = features.double(), targets.double()
    centre, goal = features.mean(0), targets.mean(0)
    gram = (features - centre).T @ (features - centre)
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, (features - centre).T @ (targets - goal)).T
    return weight.float(), (goal - weight @ centre).float()


def _states(model: GroundingDino | Glip, names: Sequence[str], prompts: PromptTokenizer) -> Tensor:
    """The mean state [N, W] of each name's tokens."""
    text = padded([prompts.from_labels([name]) for name in names])
    states: Tensor = model.text_backbone(text["input_ids"], text["position_ids"], text["self_attention_mask"])
    named = (text["token_label"] >= 0)[:, :, None]
    return (states * named).sum(1) / named.sum(1)


def _let_pass_grounding_dino(model: GroundingDino) -> None:
    """Layers add little of their own to what their deformable attention sees."""
    for layer in model.modules():
        if isinstance(layer, ImageLayer):
            _look_at(layer.self_attn, level=len(model.neck.lateral) - 1)
            _pass([layer.self_attn.value_proj, layer.self_attn.output_proj])
            _quieten([layer.ffn.fc2])
        elif isinstance(layer, TextLayer):
            _quieten([layer.self_attn.out_proj, layer.ffn.fc2])
        elif isinstance(layer, DecoderLayer):
            _pass([layer.image_attn.value_proj, layer.image_attn.output_proj])
            _quieten([layer.self_attn.out_proj, layer.text_attn.out_proj, layer.ffn.fc2])
    _pass([model.selection.output])
    _quieten([model.query_embed])


def _let_pass_glip(model: Glip) -> None:
    """The pyramid and the tower's convolutions hand on what each place holds, from level to level."""
    for conv in model.pyramid.output:
        assert isinstance(conv, nn.Conv2d)
        nn.init.dirac_(conv.weight)
    for layer in model.modules():
        if isinstance(layer, TowerLayer):
            for gathered in (layer.conv.coarser, layer.conv.same, layer.conv.finer):
                nn.init.dirac_(gathered.conv.weight)
        elif isinstance(layer, FusionLayer):
            layer.gamma_image.mul_(QUIET)
            layer.gamma_text.mul_(QUIET)


def _look_at(attention: DeformableAttention, *, level: int) -> None:
    points = (attention.heads, attention.levels, attention.points)
    attention.attention_weights.bias.view(points)[:, level] += LAST_LEVEL
    attention.sampling_offsets.bias.view(*points, 2)[:, level] *= NEARER


def _set(layer: nn.Linear | nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    """Put these into a linear layer or a convolution of one cell."""
    assert layer.bias is not None
    layer.weight.copy_(weight.reshape(layer.weight.shape))
    layer.bias.copy_(bias)


def _quieten(layers: Iterable[nn.Module]) -> None:
    for layer in layers:
        for parameter in layer.parameters():
            parameter.mul_(QUIET)


def _pass(layers: Iterable[nn.Linear]) -> None:
    for layer in layers:
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
