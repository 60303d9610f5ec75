"""Make a CLIP of a published EfficientNet and of a CLIP that knows drawings: classes as words, and a learnt residual.

    python -m models.training.class_residual OUT --words WORDS --backbone PTH --drawings CLIP --photographs PACK \\
        --sprites PACK

Photographs need no training: the tower's classes are embedded as their names. Drawings, which ImageNet has few of, are
learnt by contrast with the names of all (InfoNCE), from the tower's features, and from the image tower of the CLIP of
drawings; a gate, learnt with it, leaves photographs as they are. Both towers are frozen, so the features of each
picture are computed once, and kept in OUT, where an interrupted run goes on.
"""

import argparse
import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from models import registry
from models.checkpoints import read
from models.clip.config import ClipConfig, EfficientNetTowerConfig
from models.clip.model import Clip, EfficientNetTower, ResNetTower
from models.layers.efficientnet import EfficientNetConfig
from models.state_dict_map import as_torch
from models.synthetic.photo_pack import PERSON, load_photographs
from models.synthetic.photo_scenes import PhotoSceneConfig, PhotoSceneGenerator
from models.synthetic.scenes import SceneConfig, SceneGenerator, to_image
from models.synthetic.sprites import NAMES_FILE, SMALL_PACK, NamedObject, load_pack, read_names
from models.tokenizers import vocabulary_size
from models.training.distillation import CLIP_CONFIG, DIMENSIONS, DistilledWords
from models.training.warm_start import ridge, start_clip
from server.contract.manifest import Preprocessing

LOG = logging.getLogger(__name__)
FEATURES = "features.pt"
SOURCE = (
    "EfficientNet-Lite0, learnt from ImageNet (Apache-2.0); words distilled from all-MiniLM-L6-v2 (Apache-2.0), which"
    " read WordNet's definitions; pictures of emoji drawings: Noto (Apache-2.0), Twemoji (CC-BY 4.0), Fluent (MIT)"
)
IMAGE_SIZE = 224
PREPROCESSING = Preprocessing(
    resize="shorter_crop",
    shorter=IMAGE_SIZE,
    resample="bicubic",
    reducing_gap=3.0,
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
)
BLOCK = 32  # pictures drawn and encoded together
SAVED_EVERY = 50  # blocks
PHOTO_SHARE = 0.25  # of the blocks
PHOTOS = PhotoSceneConfig(smallest=0.45, largest=1.0, drawn=0.0, painted=0.3)
PASTED = PhotoSceneConfig(smallest=0.45, largest=1.0, drawn=1.0, painted=0.3)
DRAWN = SceneConfig(smallest=0.35, restyle=0.3, warp=0.03, overlap=0.1, shapes=1)


@dataclass(frozen=True)
class Features:
    """Features [N, head] and of the drawing tower [N, words], float16; rows of names [N]; which are photographs [N]."""

    pooled: Tensor
    drawn: Tensor
    labels: Tensor
    is_photo: Tensor


@dataclass(frozen=True)
class FitConfig:
    """Length and strengths of the fit: `quiet` weighs the square of a photograph's residual, `smooth` of any."""

    steps: int = 1800
    batch: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    dropout: float = 0.15
    smoothing: float = 0.05
    quiet: float = 5.0
    smooth: float = 0.01
    scale: float = 30.0
    largest_scale: float = 60.0


COLUMNS = tuple(field.name for field in fields(Features))
Pictures = tuple[list[Image.Image], list[str], bool]


def pictures(
    photos: PhotoSceneGenerator, pasted: PhotoSceneGenerator, drawn: SceneGenerator, *, seed: int, first: int = 0
) -> Iterator[Pictures]:
    """Draw blocks without end: pictures, their labels, and whether they show photographs; from the block `first`."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    number = first
    while True:
        rng = random.Random(f"{seed} {number}")
        number += 1
        kind = rng.random()
        if kind > 0.5 + PHOTO_SHARE / 2:
            drawn.generator.manual_seed(rng.getrandbits(62))
            batch = drawn.single(BLOCK, size, DRAWN)
            labels = [drawn.objects[index].label for index in batch.objects.tolist()]
            yield [to_image(picture) for picture in batch.pixels], labels, False
            continue
        is_photo = kind < PHOTO_SHARE
        generator, config = (photos, PHOTOS) if is_photo else (pasted, PASTED)
        found = [generator.single(size, config, rng) for _ in range(BLOCK)]
        yield [image for image, _ in found], [generator.objects[index].label for _, index in found], is_photo


@torch.inference_mode()
def tower_features(tower: EfficientNetTower, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
    """Features of pictures before the classifier [B, head], and of the drawing tower [B, words]."""
    assert tower.drawings is not None
    values = torch.from_numpy(np.stack([np.asarray(image, np.float32) for image in images])).permute(0, 3, 1, 2)
    pixels = ((values - 127) / 128).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        pooled, drawn = tower.words.pool(tower.backbone(pixels)[-1]), tower.drawings.features(pixels)
    return pooled.half(), drawn.half()


def collect(
    tower: EfficientNetTower,
    blocks: Callable[[int], Iterator[Pictures]],
    names: Sequence[str],
    count: int,
    file: Path,
) -> Features:
    """Features of `count` blocks, kept in `file` as they come; `blocks(first)` draws from a block on."""
    place = {name: row for row, name in enumerate(names)}
    parts: list[tuple[Tensor, ...]] = []
    if file.is_file():
        stored = torch.load(file, weights_only=True)
        parts = list(zip(*(stored[key].split(BLOCK) for key in COLUMNS), strict=True))
    made = blocks(len(parts))
    while len(parts) < count:
        images, labels, is_photo = next(made)
        rows = torch.tensor([place[label] for label in labels])
        parts.append((*tower_features(tower, images), rows, torch.full((len(rows),), is_photo)))
        if len(parts) % SAVED_EVERY == 0 or len(parts) == count:
            LOG.info("%d of %d pictures", len(parts) * BLOCK, count * BLOCK)
            _store(file, parts)
    return Features(*(torch.cat(column) for column in zip(*parts[:count], strict=True)))


def _store(file: Path, parts: Sequence[tuple[Tensor, ...]]) -> None:
    part = file.with_suffix(".part")
    columns = (torch.cat(column) for column in zip(*parts, strict=True))
    torch.save(dict(zip(COLUMNS, columns, strict=True)), part)
    part.replace(file)


def fit(tower: EfficientNetTower, features: Features, names: Tensor, config: FitConfig, *, seed: int) -> float:
    """Fit what is learnt in place to the embeddings [K, D] of the names; returns the factor on cosines.

    The residual learns to name pictures without the drawing tower too: detectors have its cells alone.
    """
    assert tower.drawings is not None
    words, output = tower.words, tower.drawings.output
    generator = torch.Generator().manual_seed(seed)
    log_scale = nn.Parameter(torch.tensor(math.log(config.scale)))
    drawings = ~features.is_photo
    with torch.no_grad():
        weight, bias = ridge(features.drawn[drawings].float(), names[features.labels[drawings]])
        output.weight.copy_(weight)
        output.bias.copy_(bias)
    learnt = [*words.residual.parameters(), *words.gate.parameters(), *output.parameters()]
    optimiser, schedule = optimiser_of(learnt, log_scale, config)
    pooled = features.pooled.float()
    with torch.no_grad():
        known = words.embeddings(words.classifier(pooled).softmax(-1))
    for step in range(config.steps):
        rows = torch.randint(len(pooled), (config.batch,), generator=generator)
        kept = torch.rand(config.batch, pooled.shape[1], generator=generator) >= config.dropout
        seen = pooled[rows] * kept / (1 - config.dropout)
        alone, gate = words.residual(seen), words.gate(seen).sigmoid()
        residuals = alone * gate, (alone + output(features.drawn[rows].float())) * gate
        factor = log_scale.exp().clamp(max=config.largest_scale)
        photo, labels, total = features.is_photo[rows], features.labels[rows], torch.zeros(())
        for residual in residuals:
            logits = factor * functional.normalize(known[rows] + residual, dim=1) @ names.T
            loss = functional.cross_entropy(logits, labels, label_smoothing=config.smoothing, reduction="none")
            length = residual.square().sum(1)
            total = total + loss[~photo].sum() / max(1, int((~photo).sum())) + config.smooth * length.mean()
            total = total + config.quiet * length[photo].sum() / max(1, int(photo.sum()))
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        schedule.step()
        if (step + 1) % 300 == 0:
            LOG.info("step %d  loss %.3f", step + 1, float(total.detach()))
    return float(log_scale.detach().exp().clamp(max=config.largest_scale))


def optimiser_of(
    learnt: Iterable[nn.Parameter], log_scale: nn.Parameter, config: FitConfig
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.OneCycleLR]:
    """The optimiser of a fit, and the schedule of its rate; the scale does not decay."""
    groups = [
        {"params": list(learnt), "weight_decay": config.weight_decay},
        {"params": [log_scale], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
    return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=config.steps)


def fresh_clip(words: DistilledWords, backbone: Path, drawings: Path) -> Clip:
    """A CLIP of the published weights, the distilled words and the CLIP of drawings, that has learnt no picture yet."""
    start = registry.load(drawings)
    if not isinstance(start.model, Clip) or not isinstance(start.model.image_tower, ResNetTower):
        raise ValueError(f"--drawings {drawings}: a CLIP with a residual tower is expected")
    text = replace(CLIP_CONFIG, vocab_size=vocabulary_size(words.tokenizer))
    image = EfficientNetTowerConfig(IMAGE_SIZE, EfficientNetConfig(words=DIMENSIONS), start.config.image)
    model = Clip(ClipConfig(DIMENSIONS, image, text)).eval()
    start_clip(model, None, words, as_torch(read(backbone).tensors))
    tower = model.image_tower
    assert isinstance(tower, EfficientNetTower)
    assert tower.drawings is not None
    tower.drawings.tower.load_state_dict(start.model.image_tower.state_dict())
    rules = registry.FAMILIES[start.family].serving(start.model, start.tokenizer_file).overridden(start.serving)
    adapt_pixels(tower.drawings.tower, rules.preprocessing)
    return model


@torch.no_grad()
def adapt_pixels(tower: ResNetTower, learnt: Preprocessing) -> None:
    """Make the first layers of a tower that has learnt other mean and deviation take those of `PREPROCESSING`."""
    convolution, norm = tower.backbone.stem[0], tower.backbone.stem[1]
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    mean, std, new_mean, new_std = (
        torch.tensor(x) for x in (learnt.mean, learnt.std, PREPROCESSING.mean, PREPROCESSING.std)
    )
    norm.running_mean -= (convolution.weight.sum((2, 3)) * (new_mean - mean) / std).sum(1)
    convolution.weight *= (new_std / std)[:, None, None]


Generators = tuple[PhotoSceneGenerator, PhotoSceneGenerator, SceneGenerator]


def add_pack_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `open_packs` reads."""
    parser.add_argument("--photographs", type=Path, required=True, help="photo pack")
    parser.add_argument("--sprites", type=Path, default=SMALL_PACK, help="sprite pack, zip or folder")
    parser.add_argument("--names", type=Path, default=NAMES_FILE, help="list of the drawn objects")


def open_packs(args: argparse.Namespace, words: DistilledWords) -> tuple[list[str], Generators]:
    """Names of all that is taught, and generators of photographs, of drawings on them, and of drawings alone."""
    pack, sprites = load_photographs(args.photographs), load_pack(args.sprites)
    objects = read_names(args.names, pack=sprites)
    shown = tuple(NamedObject(label, ()) for label in pack.labels(held_out=False) if label != PERSON)
    names = list(dict.fromkeys(item.label for item in (*objects, *shown)))
    if missing := [name for name in names if name not in words.embeddings]:
        raise ValueError(f"the distilled words have no embedding of {missing[:5]}: distil them with the same names")
    return names, (
        PhotoSceneGenerator(pack, sprites, shown, held_out=False),
        PhotoSceneGenerator(pack, sprites, objects, held_out=False),
        SceneGenerator(sprites, objects, seed=0),
    )


def open_people(args: argparse.Namespace) -> PhotoSceneGenerator | None:
    """A generator of people on photographs; None if the pack has no people."""
    pack = load_photographs(args.photographs)
    if PERSON not in pack.labels(held_out=False):
        return None
    return PhotoSceneGenerator(pack, load_pack(args.sprites), (NamedObject(PERSON, ()),), held_out=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(description="Make a CLIP of an EfficientNet.")
    parser.add_argument("out", type=Path, help="folder of the features and the checkpoint")
    parser.add_argument("--words", type=Path, required=True, help="folder of a distillation with --classes")
    parser.add_argument("--backbone", type=Path, required=True, help="published weights of EfficientNet-Lite0")
    parser.add_argument("--drawings", type=Path, required=True, help="checkpoint of a CLIP that has learnt drawings")
    add_pack_arguments(parser)
    parser.add_argument("--pictures", type=int, default=60000, help="pictures to learn from")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    args.out.mkdir(parents=True, exist_ok=True)
    words = DistilledWords(args.words)
    model = fresh_clip(words, args.backbone, args.drawings)
    tower = model.image_tower
    assert isinstance(tower, EfficientNetTower)
    names, generators = open_packs(args, words)
    features = collect(
        tower,
        lambda first: pictures(*generators, seed=0, first=first),
        names,
        -(-args.pictures // BLOCK),
        args.out / FEATURES,
    )
    embeddings = torch.stack([words.embeddings[name] for name in names])
    scale = fit(tower, features, embeddings, FitConfig(), seed=0)
    model.logit_scale.data.fill_(math.log(scale))
    registry.save(
        args.out / "checkpoint",
        model,
        model.config,
        tokenizer_file=words.tokenizer,
        name="clip-mini",
        source=SOURCE,
        licence="Apache-2.0",
        serving={"preprocessing": PREPROCESSING.model_dump(mode="json"), "buckets": {"max_batch": 8}},
    )
    LOG.info("wrote %s", args.out / "checkpoint")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
