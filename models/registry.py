"""Registry of the model families; loads a checkpoint of any of them completely or not at all, and saves one."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from models import UnknownCheckpoint, UnreadableCheckpoint, WeightsDoNotFit, checkpoints, config_io, limits, tokenizers
from models.checkpoints import StoredWeights
from models.clip import description as clip_description
from models.clip import weights as clip_weights
from models.clip.config import ClipConfig
from models.clip.model import Clip
from models.clip.serving import serving_rules as clip_serving_rules
from models.family import Family, lazy
from models.files_beside import CONFIG_FILE, TOKENIZER_FILE
from models.glip import weights as glip_weights
from models.glip.config import GlipConfig
from models.glip.model import Glip
from models.glip.serving import serving_rules as glip_serving_rules
from models.grounding_dino import description as grounding_dino_description
from models.grounding_dino import weights as grounding_dino_weights
from models.grounding_dino.config import GroundingDinoConfig
from models.grounding_dino.model import GroundingDino
from models.grounding_dino.serving import serving_rules as grounding_dino_serving_rules
from models.model_card import UNKNOWN
from models.model_zoo import OPENAI_FILES
from models.state_dict_map import as_torch, fill
from models.tensor_sources import same
from server.contract.manifest import MANIFEST_FILE

LOG = logging.getLogger(__name__)

CLIP = Family(
    name="clip",
    config=ClipConfig,
    model=Clip,
    vocabulary="clip_bpe",
    weights=clip_weights,
    serving=clip_serving_rules,
    graphs=lazy("export.clip:graphs"),
    task=lazy("models.training.tasks:clip_task"),
    description=clip_description,
)
GROUNDING_DINO = Family(
    name="grounding_dino",
    config=GroundingDinoConfig,
    model=GroundingDino,
    vocabulary="bert_wordpiece",
    weights=grounding_dino_weights,
    serving=grounding_dino_serving_rules,
    graphs=lazy("export.grounding_dino:graphs"),
    task=lazy("models.training.tasks:detector_task"),
    description=grounding_dino_description,
)
GLIP = Family(
    name="glip",
    config=GlipConfig,
    model=Glip,
    vocabulary="bert_wordpiece",
    weights=glip_weights,
    serving=glip_serving_rules,
    graphs=lazy("export.glip:graphs"),
    task=lazy("models.training.tasks:detector_task"),
)
_load_bundle = lazy("export.bundle_weights:load_bundle")
FAMILIES: dict[str, Family] = {family.name: family for family in (CLIP, GROUNDING_DINO, GLIP)}


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A model with all its weights (eval mode, float32, CPU), and their origin.

    serving: overrides of its family's serving rules, by section of the manifest; empty where there are none.
    """

    family: str
    variant: str
    container: str
    model: nn.Module
    config: Any
    licence: str
    source: str
    weights_sha256: str
    tokenizer_file: Path
    serving: Mapping[str, Any] = field(default_factory=dict)


def load(path: str | Path) -> LoadedCheckpoint:
    """Load the checkpoint in `path`, a file or a folder (Hugging Face's or our own): completely, or CheckpointError.

    Of a bundle, the weights of its graphs (`export.bundle_weights`).
    """
    if (Path(path) / MANIFEST_FILE).is_file():
        found: LoadedCheckpoint = _load_bundle(Path(path))
        return found
    stored = checkpoints.read(path)
    try:
        return _load_openset(Path(path), stored) if stored.is_openset else _load_published(Path(path), stored)
    except WeightsDoNotFit as error:
        raise WeightsDoNotFit(
            missing=error.missing, left_over=error.left_over, wrong=error.wrong, path=str(path)
        ) from None
    except UnknownCheckpoint as error:
        raise UnknownCheckpoint(f"{path}: {error}") from None


def _load_published(path: Path, stored: StoredWeights) -> LoadedCheckpoint:
    for named in stored.prefixes_stripped():
        for family in FAMILIES.values():
            if container := family.weights.recognise(named.tensors.keys()):
                return _loaded(path, named, family, container)
    names = ", ".join(list(stored.tensors)[:5])
    raise UnknownCheckpoint(f"its tensors ({names}, ...) are of no known family; known are {', '.join(FAMILIES)}")


def _loaded(path: Path, stored: StoredWeights, family: Family, container: str) -> LoadedCheckpoint:
    told = family.description
    described = told.described_config(stored, container) if told else stored.config
    with limits.bounded_by(len(stored.tensors)):
        model, config, variant = family.weights.load(as_torch(stored.tensors), container, described)
    rules = told.preprocessing_rules(stored, container, config) if told else {}
    if container == "huggingface" and told and not rules.get("mean"):
        LOG.warning("%s: no preprocessor_config.json is beside it: the preprocessing is that of the paper's code", path)
    if stored.choice:
        LOG.warning("%s: %s", path, stored.choice)
    sha256 = stored.sha256()
    return LoadedCheckpoint(
        family=family.name,
        variant=variant,
        container=container,
        model=model.eval(),
        config=config,
        licence=stored.beside.licence or ("MIT" if sha256 in OPENAI_FILES else UNKNOWN),
        source=path.name,
        weights_sha256=sha256,
        tokenizer_file=stored.tokenizer_file or tokenizers.standard_file(family.vocabulary),
        serving={"preprocessing": rules} if rules else {},
    )


def _load_openset(path: Path, stored: StoredWeights) -> LoadedCheckpoint:
    header = stored.config or {}
    family = FAMILIES.get(str(header.get("family")))
    if family is None:
        raise UnknownCheckpoint(f"its family is {header.get('family')!r}; known are {', '.join(FAMILIES)}")
    if stored.tokenizer_file is None:
        raise UnreadableCheckpoint(f"{path} has no {TOKENIZER_FILE}")
    try:
        config = config_io.from_json(family.config, header.get("config"))
        with limits.bounded_by(len(stored.tensors)), torch.device("meta"):
            model = family.model(config)
    except (ValueError, TypeError, RuntimeError, ArithmeticError, MemoryError) as error:
        raise UnknownCheckpoint(f"no model can be built from its config: {error}") from error
    fill(model, as_torch(stored.tensors), {key: same(key) for key in model.state_dict()})
    return LoadedCheckpoint(
        family=family.name,
        variant=str(header.get("variant", "custom")),
        container=checkpoints.OPENSET_FORMAT,
        model=model.eval(),
        config=config,
        licence=str(header.get("licence", "unknown")),
        source=str(header.get("source", path.name)),
        weights_sha256=stored.sha256(),
        tokenizer_file=stored.tokenizer_file,
        serving=header.get("serving", {}),
    )


def save(
    path: str | Path,
    model: nn.Module,
    config: Any,
    *,
    tokenizer_file: str | Path,
    name: str,
    licence: str = UNKNOWN,
    source: str = "trained with openset train",
    serving: Mapping[str, Any] | None = None,
) -> Path:
    """Write an "openset" checkpoint folder that `load` reads back: float32 weights, config and tokenizer.

    `name` becomes the variant; `serving` overrides the family's serving rules (see `LoadedCheckpoint`). The folder is
    created; its files are replaced.
    """
    family = next((family.name for family in FAMILIES.values() if isinstance(config, family.config)), None)
    if family is None:
        raise ValueError(f"config is a {type(config).__name__}; a config of {', '.join(FAMILIES)} is expected")
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    header = {
        "format": checkpoints.OPENSET_FORMAT,
        "family": family,
        "variant": name,
        "licence": licence,
        "source": source,
        "serving": dict(serving or {}),
    }
    text = json.dumps({**header, "config": config_io.to_json(config)}, indent=1) + "\n"
    stored = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    save_file(
        {key: (value.float() if value.is_floating_point() else value).contiguous() for key, value in stored.items()},
        folder / checkpoints.WEIGHTS_FILE,
    )
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    target = folder / TOKENIZER_FILE
    if not (target.exists() and target.samefile(tokenizer_file)):
        shutil.copyfile(tokenizer_file, target)
    return folder
