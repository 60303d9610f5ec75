"""Warm start of a fresh model: backbones of another family, distilled words, and projections fitted to both.

The image tower comes from a CLIP that has learnt the embedding of each name, and the words know them too; but the
layers between the two are fresh in a detector, and it takes hundreds of steps until they agree. `align` initialises the
projections of both sides as linear maps into the same directions of that space, and lets the layers behind them pass it
on: finer levels start by looking at the last, which alone knows names, and a query as the picture's features there.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.clip.model import Clip, EfficientNetTower, ResNetTower
from models.data.collate import pad_text
from models.efficientnet_weights import load_efficientnet
from models.glip.heads import EMBEDDING_SCALE
from models.glip.model import Glip
from models.glip.vl_dyhead import TowerLayer
from models.grounding_dino.decoder import DecoderLayer
from models.grounding_dino.deformable import DeformableAttention
from models.grounding_dino.encoder import ImageLayer, TextLayer
from models.grounding_dino.model import GroundingDino
from models.layers.backbone import EfficientNetStages, ResNetStages
from models.layers.fusion import FusionLayer
from models.registry import LoadedCheckpoint
from models.training.distillation import BERT, CLIP_TEXT, DistilledWords
from server.contract.text import PromptTokenizer

RIDGE = 1e-3  # regularisation, as a share of a feature's mean square
SCORED_TEXTS, TEXTS_AT_ONCE = 8000, 256
LAST_STAGE = 3  # of stride 32
DAMPING = 0.1  # scale of the weights of fresh layers, which add to the features that pass them
LAST_LEVEL = 4.0  # logit by which points on the last level outweigh those on others at first
NEARER = 0.15  # scale of those points' offsets from their cell, which is as large as an object
GLIP_KEY = 0.15  # length of a token's key, which GLIP's initial temperature makes a logit of about ten


def start_clip(
    model: Clip,
    start: LoadedCheckpoint | None,
    words: DistilledWords | None,
    backbone: Mapping[str, Tensor] | None = None,
) -> None:
    """Fill the text tower of a fresh CLIP with that of a distillation, and an EfficientNet with published weights.

    The classes of such a tower are then embedded where the distillation's teacher puts their names.
    """
    if start is not None:
        raise ValueError(f"--start {start.source}: a fresh CLIP takes nothing from another family")
    if words is not None:
        words.fill(model.text_tower, CLIP_TEXT)
    if backbone is None:
        return
    tower = model.image_tower
    if not isinstance(tower, EfficientNetTower):
        raise ValueError(f"--backbone has the weights of an EfficientNet; the recipe's tower is {type(tower).__name__}")
    load_efficientnet(backbone, tower.backbone, tower.words)
    if words is None:
        return
    classes, wanted = words.classes.T, tower.words.embeddings.weight
    if classes.shape != wanted.shape:
        raise ValueError(
            f"the distillation embeds {classes.shape[1]} classes in {classes.shape[0]} dimensions; the tower has"
            f" {wanted.shape[1]} in {wanted.shape[0]}: distil the words with --classes"
        )
    with torch.no_grad():
        wanted.copy_(classes)


def start_detector(
    model: GroundingDino | Glip,
    start: LoadedCheckpoint | None,
    words: DistilledWords | None,
    prompts: PromptTokenizer,
    *,
    frozen_words: bool,
) -> None:
    """Fill a fresh detector with the backbones of a checkpoint and the text backbone of a distillation.

    ValueError for a checkpoint that has none, and for words that would stay at random (`frozen_words`).
    """
    if words is not None:
        words.fill(model.text_backbone, BERT)
        if start is not None:
            _copy_image_backbone(model, start.model)
            _align_to_clip(model, start.model, words, prompts)
        return
    if start is not None and isinstance(model, Glip):
        if not isinstance(start.model, GroundingDino):
            raise ValueError(f"--start {start.source} is a {start.family}; a trained grounding_dino is expected")
        _copy_backbones(model, start.model)
        return
    if frozen_words:
        raise ValueError("the recipe freezes the text backbone: give --words, the folder of a distillation")
    if start is not None:
        if not isinstance(start.model, Clip):
            raise ValueError(f"--start {start.source} is a {start.family}; a trained clip is expected")
        _copy_image_backbone(model, start.model)
        theirs, ours = start.model.text_tower.tokens.weight, model.text_backbone.embeddings.words.weight
        if theirs.shape == ours.shape:
            with torch.no_grad():
                ours.copy_(theirs)


def _copy_image_backbone(model: GroundingDino | Glip, start: nn.Module) -> None:
    """Copy the ResNet of a CLIP or a Grounding DINO, or the EfficientNet of a CLIP with its words."""
    if isinstance(start, Clip) and isinstance(start.image_tower, EfficientNetTower):
        stages, tower = model.backbone, start.image_tower
        if not isinstance(stages, EfficientNetStages) or stages.words is None:
            raise ValueError("the backbone of the start is an EfficientNet with words; the recipe's is none")
        stages.efficientnet.load_state_dict(tower.backbone.state_dict())
        stages.words.load_state_dict(tower.words.state_dict())
        return
    if isinstance(start, Clip) and isinstance(start.image_tower, ResNetTower):
        found: nn.Module = start.image_tower.backbone
    elif isinstance(start, GroundingDino) and isinstance(start.backbone, ResNetStages):
        found = start.backbone.resnet
    else:
        raise ValueError(f"the backbone of a start must be a ResNet, that of this {type(start).__name__} is none")
    if not isinstance(model.backbone, ResNetStages):
        raise ValueError("the backbone of the start is a ResNet; the recipe's is none")
    model.backbone.resnet.load_state_dict(found.state_dict())


def _copy_backbones(glip: Glip, dino: GroundingDino) -> None:
    """Copy both backbones of a Grounding DINO but for positions, which do not restart with each label in a GLIP."""
    positions = glip.text_backbone.embeddings.positions.weight.detach().clone()
    text = {**dino.text_backbone.state_dict(), "embeddings.positions.weight": positions}
    try:
        glip.backbone.load_state_dict(dino.backbone.state_dict())
        glip.text_backbone.load_state_dict(text)
    except RuntimeError as error:
        raise ValueError(f"the backbones of the start are of another size than the recipe's: {error}") from error


def _align_to_clip(
    model: GroundingDino | Glip, start: nn.Module, words: DistilledWords, prompts: PromptTokenizer
) -> None:
    """Align a detector that starts from a CLIP, if it reads the last map of its tower."""
    tower = start.image_tower if isinstance(start, Clip) else None
    names, last = words.names, model.config.stages[-1]
    embeddings = torch.stack([words.embeddings[name] for name in names])
    if isinstance(tower, EfficientNetTower) and last == LAST_STAGE:
        align(
            model,
            _words_of_cells(model.config.backbone.channels[last], embeddings.shape[1]),
            names,
            embeddings,
            prompts,
        )
        fit_word_scores(model, words, prompts)
        return
    if not isinstance(tower, ResNetTower) or not isinstance(tower.pool, nn.Sequential):
        return
    head = tower.pool[-1]
    if isinstance(head, nn.Linear) and model.config.backbone.channels[last] == head.in_features:
        align(model, head, names, embeddings, prompts)


def _words_of_cells(channels: int, words: int) -> nn.Linear:
    """A layer that picks the embedding at the end of an EfficientNet's last map, and a little of the rest."""
    head = nn.Linear(channels, words)
    with torch.no_grad():
        head.weight.mul_(DAMPING)
        head.weight[:, -words:] = torch.eye(words)
        head.bias.zero_()
    return head


@torch.no_grad()
def align(
    model: GroundingDino | Glip, head: nn.Linear, names: Sequence[str], embeddings: Tensor, prompts: PromptTokenizer
) -> None:
    """Fit the projections of pictures and words to one space, in place.

    `head` maps the averaged last map of the tower to the embeddings [N, D] of the names, of unit length.
    """
    lateral = model.pyramid.lateral if isinstance(model, Glip) else model.neck.lateral
    last = next(layer for layer in lateral[-1].modules() if isinstance(layer, nn.Conv2d))
    mean, directions = shared_directions(embeddings, last.out_channels)
    wanted = (embeddings - mean) @ directions.T
    scale = 1 / wanted.std()
    _set(last, scale * directions @ head.weight, scale * directions @ (head.bias - mean))
    if isinstance(model, Glip):
        states = functional.normalize(_states(model, names, prompts), dim=1) * EMBEDDING_SCALE
        _set(model.token_alignment.text_proj, *ridge(states, functional.normalize(wanted, dim=1) * GLIP_KEY))
        _damp(lateral[:-1])
        _pass_on_glip(model)
    else:
        _set(model.text_proj, *ridge(_states(model, names, prompts), scale * wanted))
        _pass_on_grounding_dino(model)


@torch.no_grad()
def fit_word_scores(model: GroundingDino | Glip, words: DistilledWords, prompts: PromptTokenizer) -> None:
    """Fit the text side of a detector's word scores to names, and to other texts, so that names not taught count too.

    Training spoils it: what it learns of a few names costs the others. Recipes freeze it, and what its features are of.
    """
    if model.word_scores is None:
        return
    others = list(words.embeddings)[len(words.names) :]
    texts = [*words.names, *others[:: max(1, len(others) // SCORED_TEXTS)]]
    tokens, targets = [], []
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        some = texts[first : first + TEXTS_AT_ONCE]
        features, rows = _tokens(model, some, prompts)
        tokens.append(features)
        targets.append(torch.stack([words.embeddings[some[row]] for row in rows.tolist()]))
    _set(model.word_scores.text, *ridge(torch.cat(tokens), torch.cat(targets)))


def shared_directions(embeddings: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Find the mean [D] of embeddings [N, D] and their first principal directions [width, D], turned at random.

    Turned, since norms by groups of channels would otherwise make the least direction as strong as the first.
    """
    mean = embeddings.mean(0)
    directions = torch.linalg.svd(embeddings - mean, full_matrices=False).Vh[:width]
    turn = torch.linalg.qr(torch.randn(width, len(directions))).Q
    return mean, turn @ directions


def ridge(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Fit the weight [d, C] and bias [d] of a linear map from features [n, C] to targets [n, d] by ridge regression."""
    features, targets = features.double(), targets.double()
    centre, goal = features.mean(0), targets.mean(0)
    gram = (features - centre).T @ (features - centre)
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, (features - centre).T @ (targets - goal)).T
    return weight.float(), (goal - weight @ centre).float()


def _tokens(model: GroundingDino | Glip, names: Sequence[str], prompts: PromptTokenizer) -> tuple[Tensor, Tensor]:
    """Text features of the tokens of all names [n, C], and the name of each [n]."""
    text = pad_text([prompts.from_labels([name]) for name in names])
    features = model.encode_text(text["input_ids"], text["position_ids"], text["self_attention_mask"])
    named = text["token_label"] >= 0
    return features[named], named.nonzero()[:, 0]


def _states(model: GroundingDino | Glip, names: Sequence[str], prompts: PromptTokenizer) -> Tensor:
    """Average the states of each name's tokens [N, W]."""
    text = pad_text([prompts.from_labels([name]) for name in names])
    states: Tensor = model.text_backbone(text["input_ids"], text["position_ids"], text["self_attention_mask"])
    named = (text["token_label"] >= 0)[:, :, None]
    return (states * named).sum(1) / named.sum(1)


def _pass_on_grounding_dino(model: GroundingDino) -> None:
    """Let layers add little of their own to the features of their deformable attention."""
    for layer in model.modules():
        if isinstance(layer, ImageLayer):
            _look_at(layer.self_attn, level=len(model.neck.lateral) - 1)
            _set_identity([layer.self_attn.value_proj, layer.self_attn.output_proj])
            _damp([layer.ffn.fc2])
        elif isinstance(layer, TextLayer):
            _damp([layer.self_attn.out_proj, layer.ffn.fc2])
        elif isinstance(layer, DecoderLayer):
            _set_identity([layer.image_attn.value_proj, layer.image_attn.output_proj])
            _damp([layer.self_attn.out_proj, layer.text_attn.out_proj, layer.ffn.fc2])
    _set_identity([model.selection.output])
    _damp([model.query_embed])


def _pass_on_glip(model: Glip) -> None:
    """Let the pyramid and the tower's convolutions pass features on from level to level."""
    for conv in model.pyramid.output:
        assert isinstance(conv, nn.Conv2d)
        nn.init.dirac_(conv.weight)
    for layer in model.modules():
        if isinstance(layer, TowerLayer):
            for gathered in (layer.conv.coarser, layer.conv.same, layer.conv.finer):
                nn.init.dirac_(gathered.conv.weight)
        elif isinstance(layer, FusionLayer):
            layer.gamma_image.mul_(DAMPING)
            layer.gamma_text.mul_(DAMPING)


def _look_at(attention: DeformableAttention, *, level: int) -> None:
    points = (attention.heads, attention.levels, attention.points)
    attention.attention_weights.bias.view(points)[:, level] += LAST_LEVEL
    attention.sampling_offsets.bias.view(*points, 2)[:, level] *= NEARER


def _set(layer: nn.Linear | nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    """Set the weight and bias of a linear layer or a 1x1 convolution."""
    assert layer.bias is not None
    layer.weight.copy_(weight.reshape(layer.weight.shape))
    layer.bias.copy_(bias)


def _damp(layers: Iterable[nn.Module]) -> None:
    for layer in layers:
        for parameter in layer.parameters():
            parameter.mul_(DAMPING)


def _set_identity(layers: Iterable[nn.Linear]) -> None:
    for layer in layers:
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
