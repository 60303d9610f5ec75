"""Runs our models on state dicts in official naming, for these tests and for a reference's check.py.

A state dict is first written into its official container and read back through `models.registry.load`. Intermediate
results are taken by forward hooks and named like the reference's.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from models import registry
from models.clip.model import VisionTransformer
from models.glip.candidates import candidates
from models.glip.vl_dyhead import unflatten_levels
from models.registry import LoadedCheckpoint
from server.contract.image import pad_batch
from server.contract.manifest import DetectionRules, TextRules
from server.contract.postprocess import Thresholds, detections
from server.contract.text import NO_LABEL, Phrase, Prompt, PromptTokenizer, pad_prompts
from tests.parity import containers, golden
from tests.parity.golden import Golden

# bert-base-uncased: [CLS], [SEP], [PAD], "." and "?"
PROMPT_RULES = TextRules(
    style="phrases", max_tokens=256, start_id=101, end_id=102, pad_id=0, separator_ids=(1012, 1029)
)
# GLIP: the official code pads every caption to this length, and every image to a multiple of this.
GLIP_TOKENS, GLIP_MULTIPLE = 256, 32
GLIP_RULES = DetectionRules(
    labels_per_box="all", box_edges="inclusive", box_threshold=0, text_threshold=0, nms_iou=0.6, max_detections=100
)


def load(family: str, kind: str, variant: str, state_dict: Mapping[str, Tensor]) -> LoadedCheckpoint:
    """`state_dict` as a checkpoint file of `kind` ("openai", "idea", "microsoft" or "hf"), loaded."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        if kind == "openai":
            containers.write_openai_archive(path.with_suffix(".pt"), state_dict)
            path = path.with_suffix(".pt")
        elif kind in ("idea", "microsoft"):
            path = containers.write_data_parallel(path.with_suffix(".pth"), state_dict)
        elif family == "clip":
            containers.write_huggingface(path, state_dict, containers.clip_hf_config(state_dict))
        else:
            containers.write_huggingface(path, state_dict, containers.grounding_dino_hf_config(variant))
        return registry.load(path)


def clip(kind: str, state_dict: Mapping[str, Tensor], pixel_values: Tensor, input_ids: Tensor) -> dict[str, Tensor]:
    """What a reference's check.py asks of CLIP, with those intermediate results that every reference has."""
    results = run_clip(load("clip", kind, "", state_dict).model, kind, pixel_values, input_ids)
    return {
        name: value for name, value in results.items() if ".resblocks." not in name or name.endswith(".resblocks.0")
    }


def groundingdino(
    kind: str, variant: str, state_dict: Mapping[str, Tensor], images: Sequence[Tensor], captions: Sequence[str]
) -> dict[str, Tensor]:
    """What a reference's check.py asks of Grounding DINO, without what lies behind the ranking of queries.

    check.py holds every element of an intermediate result to its tolerance, and near ties may swap two queries.
    """
    model = load("grounding_dino", kind, variant, state_dict).model
    results = run_grounding_dino(model, grounding_dino_inputs(images, captions))
    if kind == "hf":
        wanted = ("pred_", "encoded_text", "memory", "enc_topk")
        return {name: value for name, value in results.items() if name.startswith(wanted)}
    return {name: value for name, value in results.items() if not name.startswith("decoder_")}


def glip(
    variant: str,
    state_dict: Mapping[str, Tensor],
    images: Sequence[Tensor],
    caption: str,
    positive_map: Mapping[int, Sequence[int]],
) -> dict[str, Any]:
    """Results of GLIP for a reference's check.py, with all intermediate results and the final detections."""
    model = load("glip", "microsoft", variant, state_dict).model
    inputs = glip_inputs(images, caption)
    results = run_glip(model, inputs)
    hidden = results.pop("lang.hidden")
    if (reference := _glip_reference(variant, images, caption)) is not None:
        results["lang.hidden"] = as_many_tokens(reference, "lang.hidden", hidden)
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    found = glip_detections(model, inputs, glip_prompt(inputs, positive_map), sizes)
    return {**results, "detections": found}


def _glip_reference(variant: str, images: Sequence[Tensor], caption: str) -> Golden | None:
    """The stored reference of these inputs; check.py demands its number of tokens, and does not pass it on."""
    sizes = [f"{image.shape[1]},{image.shape[2]}" for image in images]
    for reference in golden.goldens("glip"):
        stored = [",".join(str(line).split(",")[1:3]) for line in reference.data["image_recipe"]]
        if (reference.variant, str(reference.data["caption"]), stored) == (variant, caption, sizes):
            return reference
    return None


def as_many_tokens(reference: Golden, key: str, values: Tensor) -> Tensor:
    """`values` [B, T, C] cut to the tokens that the reference holds of this result."""
    return values[:, : reference.shape(key)[1]]


def run_clip(model: nn.Module, kind: str, pixel_values: Tensor, input_ids: Tensor) -> dict[str, Tensor]:
    """Final and intermediate results by the names of the reference."""
    tower: nn.Module = model.image_tower
    with _recorded() as results, torch.inference_mode():
        results.watch("text_last_hidden", model.text_tower.norm)
        _watch_blocks(results, "mid.transformer", model.text_tower.transformer)
        if isinstance(tower, VisionTransformer):
            results.watch("mid.visual.ln_pre", tower.norm_before)
            results.watch("vision_last_hidden", tower.transformer)
            _watch_blocks(results, "mid.visual.transformer", tower.transformer)
        else:
            for index in (0, 3):
                results.watch(f"mid.visual.layer{index + 1}", tower.backbone.stages[index])
        results.watch("image_embeds_unnormalised", tower)
        results.watch("text_embeds_unnormalised", model.text_tower)
        output = model(pixel_values, input_ids)
    values = results.values | {
        "logits_per_image": output.logits_per_image,
        "logits_per_text": output.logits_per_text,
    }
    if kind == "hf":
        values |= {"image_embeds": output.image_embeds, "text_embeds": output.text_embeds}
        return {name: value for name, value in values.items() if not name.startswith("mid.")}
    for side in ("image", "text"):
        values[f"{side}_embeds"] = values.pop(f"{side}_embeds_unnormalised")
    values["mid.ln_final"] = values.pop("text_last_hidden")
    values.pop("vision_last_hidden", None)
    return values


def _watch_blocks(results: "Recording", name: str, transformer: nn.Module) -> None:
    for index, block in enumerate(transformer.blocks):
        # the official transformer works on [T, B, C]
        results.watch(f"{name}.resblocks.{index}", block, lambda output: output.transpose(0, 1))


def run_grounding_dino(
    model: nn.Module, inputs: Mapping[str, Tensor], *, topk_indices: Tensor | None = None
) -> dict[str, Tensor]:
    """Results by the names of the reference, final and intermediate; `topk_indices` [B, N] replaces the ranking."""
    with _recorded() as results, torch.inference_mode():
        results.watch("bert_last_hidden", model.text_backbone)
        results.watch("encoded_text", model.text_proj)
        for level in range(3):
            results.watch(f"backbone.{level}", model.backbone, lambda output, level=level: output[level])
        for level in range(4):
            results.watch(f"input_proj.{level}", model.neck, lambda output, level=level: output[level])
        results.watch_calls("pos", model.image_position, limit=3)
        results.watch("fusion0.v", model.encoder.fusion_layers[0], lambda output: output[0])
        results.watch("fusion0.l", model.encoder.fusion_layers[0], lambda output: output[1])
        results.watch("text_layer0", model.encoder.text_layers[0])
        results.watch("encoder_layer0", model.encoder.layers[0])
        results.watch("memory", model.encoder, lambda output: output[0])
        results.watch("memory_text", model.encoder, lambda output: output[1])
        results.watch("enc_topk_score_all", model.selection, lambda output: output.scores)
        if topk_indices is not None:
            results.replace(model.selection, lambda output: _ranked(output, topk_indices))
        for layer in (0, 5):
            results.watch(f"decoder_hs.{layer}", model.decoder, lambda output, layer=layer: output.states[layer])
        for layer in (0, 1, 6):
            results.watch(f"decoder_ref.{layer}", model.decoder, lambda output, layer=layer: output.references[layer])
        prompt = {name: inputs[name] for name in ("input_ids", "position_ids", "self_attention_mask")}
        others = {name: value for name, value in inputs.items() if name not in ("input_ids", "token_label")}
        output = model(**others, text_features=model.encode_text(**prompt))
    return results.values | {
        "pred_logits": output.logits,
        "pred_boxes": output.boxes_cxcywh,
        "enc_topk_indices": output.topk_indices,
    }


def _ranked(proposals: Any, indices: Tensor) -> Any:
    references = proposals.boxes.gather(1, indices[:, :, None].expand(-1, -1, 4))
    return proposals._replace(indices=indices, references=references)


def grounding_dino_inputs(images: Sequence[Tensor], captions: Sequence[str]) -> dict[str, Tensor]:
    """A padded batch of normalised images [3, H, W] and captions, made by the contract that serves."""
    tokenizer = PromptTokenizer(registry.tokenizers.standard_file("bert_wordpiece"), PROMPT_RULES)
    prompts = [tokenizer.from_caption(caption) for caption in captions]
    arrays = dict(pad_prompts(prompts, max(len(prompt) for prompt in prompts)))
    canvas = (max(image.shape[1] for image in images), max(image.shape[2] for image in images))
    arrays["pixel_values"], arrays["pixel_mask"] = pad_batch([np.asarray(image) for image in images], canvas)
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def run_glip(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Results by the names of the reference, final and intermediate."""
    with _recorded() as results, torch.inference_mode():
        results.watch("lang.hidden", model.text_backbone)
        for level in range(3):
            results.watch(f"body.{level + 1}", model.backbone, lambda output, level=level: output[level])
        for level in range(len(model.config.strides)):
            results.watch(f"fpn.{level}", model.pyramid, lambda output, level=level: output[level])
            results.watch(f"head.bbox_reg.{level}", model.box_head, lambda output, level=level: output[0][level])
            results.watch(f"head.centerness.{level}", model.box_head, lambda output, level=level: output[1][level])
            for layer in (0, len(model.tower) - 1):
                name = f"tower{3 * layer + 2}.visual.{level}"
                results.watch(name, model.tower[layer], lambda output, level=level: output.levels[level])
        results.watch("fused", model.tower[0].fusion, lambda output: output[0])
        results.watch("tower0.lang", model.tower[0].fusion, lambda output: output[1])
        results.watch("tower1.lang", model.tower[0], lambda output: output.text)
        results.watch(f"tower{3 * len(model.tower) - 1}.lang", model.tower[-1], lambda output: output.text)
        output = _glip_output(model, inputs)
    values = results.values
    levels = [values[f"fpn.{level}"] for level in range(len(model.config.strides))]
    for level, fused in enumerate(unflatten_levels(values.pop("fused"), levels)):
        values[f"tower0.visual.{level}"] = fused
    values["tower2.lang"] = values["tower1.lang"]  # the convolution behind it leaves the text alone
    for level, part in enumerate(output.token_logits.split(output.level_sizes, 1)):
        values[f"head.dot_logits.{level}"] = part
    for level, part in enumerate(output.anchors_xyxy.split(output.level_sizes, 0)):
        values[f"anchors.{level}"] = part
    return values


def _glip_output(model: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
    features = model.encode_text(inputs["input_ids"], inputs["position_ids"], inputs["self_attention_mask"])
    return model(inputs["pixel_values"], features, inputs["text_mask"])


def glip_inputs(images: Sequence[Tensor], caption: str) -> dict[str, Tensor]:
    """A padded batch of normalised images [3, H, W] with one caption, which padding may read as it does officially."""
    tokenizer = Tokenizer.from_file(str(registry.tokenizers.standard_file("bert_wordpiece")))
    ids = [101, *tokenizer.encode(caption, add_special_tokens=False).ids, 102]
    batch, padding = len(images), [0] * (GLIP_TOKENS - len(ids))
    text_mask = (torch.arange(GLIP_TOKENS) < len(ids)).expand(batch, -1)
    canvas = [-(-max(image.shape[axis] for image in images) // GLIP_MULTIPLE) * GLIP_MULTIPLE for axis in (1, 2)]
    values, mask = pad_batch([np.asarray(image) for image in images], (canvas[0], canvas[1]))
    return {
        "pixel_values": torch.from_numpy(values),
        "pixel_mask": torch.from_numpy(mask),
        "input_ids": torch.tensor(ids + padding).expand(batch, -1),
        "position_ids": torch.arange(GLIP_TOKENS).expand(batch, -1),
        "self_attention_mask": text_mask[:, None].expand(-1, GLIP_TOKENS, -1),
        "text_mask": text_mask,
    }


def glip_prompt(inputs: Mapping[str, Tensor], positive_map: Mapping[int, Sequence[int]]) -> Prompt:
    """The prompt whose labels own the tokens that the official map (label from 1 -> tokens) gives them."""
    owner = np.full(GLIP_TOKENS, NO_LABEL, np.int64)
    for label, tokens in positive_map.items():
        owner[list(tokens)] = label - 1
    return Prompt(
        labels=tuple(Phrase(str(label)) for label in positive_map),
        input_ids=inputs["input_ids"][0].numpy(),
        position_ids=inputs["position_ids"][0].numpy(),
        self_attention_mask=inputs["self_attention_mask"][0].numpy(),
        token_label=owner,
        token_span=np.zeros((GLIP_TOKENS, 2), np.int64),
        key="",
    )


def glip_detections(
    model: nn.Module, inputs: Mapping[str, Tensor], prompt: Prompt, sizes: Sequence[tuple[int, int]]
) -> list[dict[str, np.ndarray]]:
    """Of each image: boxes x0, y0, x1, y1 in pixels [N, 4], scores and labels (from 1) [N], as they are served."""
    owner = torch.from_numpy(prompt.token_label).expand(len(sizes), -1)
    with torch.inference_mode():
        scores, boxes = candidates(_glip_output(model, inputs), owner, inputs["pixel_mask"], model.config)
    found: list[dict[str, np.ndarray]] = []
    for row, size in enumerate(sizes):
        thresholds = Thresholds.of(GLIP_RULES)
        answers = detections(
            scores[row].numpy(), boxes[row].numpy(), prompt, size=size, rules=GLIP_RULES, thresholds=thresholds
        )
        found.append(
            {
                "boxes": np.asarray([answer.box for answer in answers], np.float32).reshape(-1, 4),
                "scores": np.asarray([answer.score for answer in answers], np.float32),
                "labels": np.asarray([answer.label_id + 1 for answer in answers], np.int64),
            }
        )
    return found


class Recording:
    """Forward hooks that keep what passes under a name, until `remove`."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}
        self._hooks: list[Any] = []

    def watch(self, name: str, module: nn.Module, pick: Callable[[Any], Tensor] = lambda output: output) -> None:
        """Keep `pick` of the module's output as `name`."""

        def keep(_: nn.Module, __: object, output: Any) -> None:
            self.values[name] = pick(output)

        self._hooks.append(module.register_forward_hook(keep))

    def watch_calls(self, name: str, module: nn.Module, *, limit: int) -> None:
        """Keep the outputs of the first `limit` calls as name.0, name.1, ..."""
        calls = 0

        def keep(_: nn.Module, __: object, output: Tensor) -> None:
            nonlocal calls
            if calls < limit:
                self.values[f"{name}.{calls}"] = output
            calls += 1

        self._hooks.append(module.register_forward_hook(keep))

    def replace(self, module: nn.Module, change: Callable[[Any], Any]) -> None:
        """Let the module return `change` of its output."""
        self._hooks.append(module.register_forward_hook(lambda _, __, output: change(output)))

    def remove(self) -> None:
        """Take all hooks off."""
        for hook in self._hooks:
            hook.remove()


@contextmanager
def _recorded() -> Iterator[Recording]:
    recording = Recording()
    try:
        yield recording
    finally:
        recording.remove()
