"""CLIP's sizes, activation and preprocessing, as the files beside its weights tell them in either container.

GELU or its sigmoid approximation: no shape tells which one a model was trained with, and the wrong one lowers accuracy
without a word. It is read from config.json or open_clip_config.json; a file of OpenAI's own is known by its container.
"""

from collections.abc import Mapping
from typing import Any

from models import UnknownCheckpoint
from models.checkpoints import StoredWeights
from models.clip.config import ClipConfig
from models.files_beside import CONFIG_FILE, OPEN_CLIP_FILE
from models.image_processor import open_clip_rules, processor_rules

# Scalars that OpenAI's own files have beside their weights, and other publishers' do not.
OPENAI_SCALARS = ("input_resolution", "context_length", "vocab_size")
# Entries of open_clip's configuration with the values that this model implements.
_FIXED: dict[str, dict[str, tuple[Any, ...] | None]] = {
    "vision_cfg": {
        "head_width": None, "width": None, "layers": None, "patch_size": None, "image_size": None,
        "mlp_ratio": (4.0, 4), "patch_dropout": None, "pool_type": ("tok",), "output_tokens": (False,),
        "act_kwargs": (None, {}), "norm_kwargs": (None, {}),
    },
    "text_cfg": {
        "context_length": None, "vocab_size": None, "width": None, "heads": None, "layers": None, "mlp_ratio": (4.0, 4),
        "pool_type": ("argmax",), "output_tokens": (False,), "act_kwargs": (None, {}), "norm_kwargs": (None, {}),
        "hf_tokenizer_name": (None, ""), "tokenizer_kwargs": (None, {}),
    },
    "model_cfg": {"embed_dim": None, "quick_gelu": None, "vision_cfg": None, "text_cfg": None, "init_logit_scale": None,
                  "init_logit_bias": (None,), "custom_text": (False,), "cast_dtype": None, "output_dict": None},
}  # fmt: skip


def described_config(stored: StoredWeights, container: str) -> dict[str, Any] | None:
    """The configuration of the weights in the form of a Hugging Face config.json; None for OpenAI's own.

    UnknownCheckpoint where the files contradict each other or the container, or none tells the activation.
    """
    config, open_clip = stored.config, None
    if container == "openai" and not _is_of_clip(config):
        config = None
    if stored.beside.open_clip is not None:
        open_clip = hf_form(stored.beside.open_clip)
    told = {}
    if stored.is_script or all(name in stored.tensors for name in OPENAI_SCALARS):
        told["its container, which is OpenAI's own"] = "quick_gelu"
    for file, found in ((CONFIG_FILE, config), (OPEN_CLIP_FILE, open_clip)):
        if found is not None:
            told[file] = activation_of(found)
    if not told:
        raise UnknownCheckpoint(
            f"nothing tells whether it was trained with gelu or quick_gelu: put {CONFIG_FILE} or {OPEN_CLIP_FILE} of"
            ' its repository beside it. For a fine-tuned model of OpenAI\'s, write {"model_cfg": {"quick_gelu": true}}'
            f" into {OPEN_CLIP_FILE}"
        )
    if len(set(told.values())) > 1:
        listed = ", ".join(f"{file}: {activation}" for file, activation in told.items())
        raise UnknownCheckpoint(
            f"its activation is told differently ({listed}): keep the files that belong to the weights"
        )
    return (open_clip or config) if container == "openai" else (config or open_clip)


def activation_of(config: Mapping[str, Any]) -> str:
    """The activation of the text tower in a Hugging Face configuration."""
    if "activation" in config:
        return str(config["activation"])
    section = config.get("text_config_dict") or config.get("text_config") or {}
    return str(section.get("hidden_act", "quick_gelu")) if isinstance(section, Mapping) else "quick_gelu"


def hf_form(data: Mapping[str, Any]) -> dict[str, Any]:
    """An open_clip_config.json in the form of a Hugging Face config.json, or {"activation": …} without sizes."""
    model = _section(data, "model_cfg")
    activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    if not {"embed_dim", "vision_cfg", "text_cfg"} <= model.keys():
        return {"activation": activation}
    theirs, words = _section(model, "vision_cfg"), _section(model, "text_cfg")
    if isinstance(theirs.get("layers"), list):  # a ResNet, whose sizes are those of its shapes
        return {"activation": activation}
    width, text_width = theirs.get("width", 768), words.get("width", 512)
    vision = {
        "hidden_act": activation,
        "hidden_size": width,
        "intermediate_size": _times(width, 4),
        "num_hidden_layers": theirs.get("layers", 12),
        "num_attention_heads": _divided(width, theirs.get("head_width", 64)),
        "image_size": theirs.get("image_size", 224),
        "patch_size": theirs.get("patch_size", 16),
    }
    text = {
        "hidden_act": activation,
        "hidden_size": text_width,
        "intermediate_size": _times(text_width, 4),
        "num_hidden_layers": words.get("layers", 12),
        "num_attention_heads": words.get("heads", 8),
        "vocab_size": words.get("vocab_size", 49408),
        "max_position_embeddings": words.get("context_length", 77),
        "eos_token_id": 2,
    }
    return {"projection_dim": model["embed_dim"], "text_config": text, "vision_config": vision}


def preprocessing_rules(stored: StoredWeights, container: str, config: ClipConfig) -> dict[str, Any]:
    """Preprocessing as the files beside the weights tell it; empty where none does.

    UnknownCheckpoint where an entry cannot be obeyed, or the files contradict each other.
    """
    size = config.image.image_size
    processors = stored.beside.processors if container == "huggingface" or _is_of_clip(stored.config) else ()
    found = {file: processor_rules(settings, file, "clip") for file, settings in processors}
    if stored.beside.open_clip is not None:
        cfg = stored.beside.open_clip.get("preprocess_cfg") or {}
        if not isinstance(cfg, Mapping):
            raise UnknownCheckpoint(f"{OPEN_CLIP_FILE} has preprocess_cfg {cfg!r}; an object is expected")
        if cfg or not found:
            found[OPEN_CLIP_FILE] = open_clip_rules(cfg, OPEN_CLIP_FILE, size)
    for file, rules in found.items():
        square = rules["resize"] == "shorter_crop" or rules["resize"] == "square"
        if not square or rules.get("crop", rules["shorter"]) != size:
            raise UnknownCheckpoint(f"{file} makes images that are no squares of {size} pixels, which the model takes")
    one, *others = found.values() or [{}]
    if any(other != one for other in others):
        raise UnknownCheckpoint(f"{' and '.join(found)} tell different preprocessing: keep the one of these weights")
    # open_clip resizes before it converts to RGB, as OpenAI does; transformers after.
    return one | {"rgb_after_resize": container == "openai"}


def _is_of_clip(config: Mapping[str, Any] | None) -> bool:
    """True unless the folder's config.json, and so the image processor, are of another model in the same folder."""
    return config is None or config.get("model_type", "clip") == "clip"


def _section(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = data.get(name)
    if not isinstance(section, Mapping):
        raise UnknownCheckpoint(f"{OPEN_CLIP_FILE} has {name} {section!r}; an object is expected")
    for entry, value in section.items():
        accepted = _FIXED[name].get(entry, (None, False))
        if accepted is not None and value not in accepted:
            raise UnknownCheckpoint(f"{OPEN_CLIP_FILE} has {name}.{entry} {value!r}; supported are {accepted}")
    return section


def _times(value: Any, factor: int) -> Any:
    return value * factor if isinstance(value, int) else value


def _divided(value: Any, divisor: Any) -> Any:
    whole = isinstance(value, int) and isinstance(divisor, int) and divisor > 0 and value % divisor == 0
    return value // divisor if whole else None
