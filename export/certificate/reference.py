"""PyTorch's outputs for the parity cases, one image and one text at a time: no batch neighbour can change them.

Names: `CASE/image_embeds` [B, D] and `CASE/text_embeds` [N, D] of a similarity case. Of image I of a detection case:
`CASE/I/image_features` [P, C], at the positions that `export.certificate.parity_cases.sampled` takes;
`CASE/I/text_features` [T, C], `CASE/I/token_scores` [N, T], `CASE/I/boxes` [N, 4], and `CASE/I/decided` [N] bool:
the rank of a query was decided by more than float32 noise.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from export.certificate.parity_cases import BundleTokenizer, ParityCase, sampled
from export.graph_spec import GraphSpec
from models.family import ServingRules
from server.contract.image import Float32, canvas_size, pad_batch
from server.contract.manifest import Buckets
from server.contract.text import Prompt, SentenceTokenizer, pad_prompts

OutputArrays = dict[str, npt.NDArray[Any]]


def reference_outputs(
    rules: ServingRules, tokenizer: BundleTokenizer, specs: Sequence[GraphSpec], cases: Sequence[ParityCase]
) -> OutputArrays:
    """Outputs of every case, by the names above, from the images and texts as they are served."""
    named = {spec.name: spec for spec in specs}
    outputs: OutputArrays = {}
    with torch.inference_mode():
        for case in cases:
            pixels = case.pixels(rules.preprocessing)
            if isinstance(tokenizer, SentenceTokenizer):
                answers = _similarity(named, pixels, [tokenizer.encode([str(text)]) for text in case.texts])
            else:
                answers = {
                    f"{index}/{name}": value
                    for index, (image, prompt) in enumerate(zip(pixels, case.prompts(tokenizer), strict=True))
                    for name, value in _detection(named, image, prompt, rules.buckets).items()
                }
            outputs |= {f"{case.name}/{name}": value for name, value in answers.items()}
    return outputs


def canary_outputs(specs: Sequence[GraphSpec]) -> OutputArrays:
    """`PART/in/NAME` and `PART/out/NAME` of each part's canary, as `server.bundle.Bundle.check_canary` reads them.

    An output that the next part takes is not stored: it shows in the outputs of that part.
    """
    arrays: OutputArrays = {}
    handed: dict[str, Tensor] = {}
    taken = {name for spec in specs for name in spec.inputs if name not in spec.canary}
    with torch.inference_mode():
        for spec in specs:
            results = spec.module(*spec.arguments({**handed, **spec.canary}))
            named = dict(zip(spec.outputs, results if isinstance(results, tuple) else (results,), strict=True))
            handed |= {name: value for name, value in named.items() if name in taken}
            arrays |= {f"{spec.name}/in/{name}": value.numpy() for name, value in spec.canary.items()}
            arrays |= {f"{spec.name}/out/{name}": value.numpy() for name, value in named.items() if name not in taken}
    return arrays


def _similarity(
    specs: Mapping[str, GraphSpec], pixels: Sequence[Float32], ids: Sequence[npt.NDArray[np.int64]]
) -> OutputArrays:
    encode_image, encode_text = specs["image_encoder"].module, specs["text_encoder"].module
    images = [encode_image(torch.from_numpy(image[None])) for image in pixels]
    texts = [encode_text(torch.from_numpy(row)) for row in ids]
    return {"image_embeds": torch.cat(images).numpy(), "text_embeds": torch.cat(texts).numpy()}


def _detection(specs: Mapping[str, GraphSpec], pixels: Float32, prompt: Prompt, buckets: Buckets) -> OutputArrays:
    values, mask = pad_batch([pixels], canvas_size(pixels.shape[1], pixels.shape[2], buckets))
    arrays = {"pixel_values": values, "pixel_mask": mask, **pad_prompts([prompt], len(prompt))}
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    image, text, detector = specs["image_encoder"], specs["text_encoder"], specs["detector"]
    levels = dict(zip(image.outputs, image.module(*image.arguments(inputs)), strict=True))
    features = text.module(*text.arguments(inputs))
    detect: Any = detector.module.with_rank_decided
    scores, boxes, decided = detect(*detector.arguments({**inputs, **levels, "text_features": features}))
    return {
        "image_features": sampled([level[0].numpy() for level in levels.values()]),
        "text_features": features[0].numpy(),
        "token_scores": scores[0].numpy(),
        "boxes": boxes[0].numpy(),
        "decided": decided[0].numpy(),
    }
