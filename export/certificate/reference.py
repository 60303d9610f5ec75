"""PyTorch's answers to the cases: one picture, one text at a time, so that no neighbour has a part in them.

`CASE/image_embeds` [B, D] and `CASE/text_embeds` [N, D] of a similarity case. Of request I of a detection case:
`CASE/I/image_features` [P, C], at the few places that `export.certificate.parity_cases.sampled` takes;
`CASE/I/text_features` [T, C], `CASE/I/token_scores` [N, T], `CASE/I/boxes` [N, 4] and `CASE/I/decided` [N] bool,
which says whether the rank of a query was decided by more than float32 noise.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from export.certificate.parity_cases import Case, sampled
from export.graph_spec import Part
from server.bundle import Bundle
from server.contract.image import Float32, pad_batch
from server.contract.text import Prompt, pad_prompts

Outputs = dict[str, npt.NDArray[Any]]


def reference_outputs(bundle: Bundle, parts: Sequence[Part], cases: Sequence[Case]) -> Outputs:
    """The outputs of every case, by the names above; the bundle lends its preprocessing and its tokenizer."""
    named = {part.name: part for part in parts}
    outputs: Outputs = {}
    with torch.inference_mode():
        for case in cases:
            answer = _similarity(bundle, named, case) if bundle.manifest.detection is None else {}
            if bundle.manifest.detection is not None:
                for index, (pixels, prompt) in enumerate(
                    zip(case.pixels(bundle.manifest), case.prompts(bundle), strict=True)
                ):
                    detection = _detection(bundle, named, pixels, prompt)
                    answer |= {f"{index}/{name}": value for name, value in detection.items()}
            outputs |= {f"{case.name}/{name}": value for name, value in answer.items()}
    return outputs


def canary_outputs(parts: Sequence[Part]) -> Outputs:
    """`PART/in/NAME` and `PART/out/NAME` of each part's canary, as `server.bundle.Bundle.check_canary` reads them.

    What one part hands to the next is not stored: it shows in the outputs of the next.
    """
    arrays: Outputs = {}
    handed: dict[str, Tensor] = {}
    taken = {name for part in parts for name in part.inputs if name not in part.canary}
    with torch.inference_mode():
        for part in parts:
            results = part.module(*part.arguments({**handed, **part.canary}))
            named = dict(zip(part.outputs, results if isinstance(results, tuple) else (results,), strict=True))
            handed |= {name: value for name, value in named.items() if name in taken}
            arrays |= {f"{part.name}/in/{name}": value.numpy() for name, value in part.canary.items()}
            arrays |= {f"{part.name}/out/{name}": value.numpy() for name, value in named.items() if name not in taken}
    return arrays


def _similarity(bundle: Bundle, parts: Mapping[str, Part], case: Case) -> Outputs:
    image, text = parts["image_encoder"].module, parts["text_encoder"].module
    images = [image(torch.from_numpy(pixels[None])) for pixels in case.pixels(bundle.manifest)]
    texts = [text(torch.from_numpy(bundle.sentences.encode([str(text_)]))) for text_ in case.texts]
    return {"image_embeds": torch.cat(images).numpy(), "text_embeds": torch.cat(texts).numpy()}


def _detection(bundle: Bundle, parts: Mapping[str, Part], pixels: Float32, prompt: Prompt) -> Outputs:
    values, mask = pad_batch([pixels], bundle.canvas(pixels))
    inputs = _tensors({"pixel_values": values, "pixel_mask": mask, **pad_prompts([prompt], len(prompt))})
    image, text, detector = parts["image_encoder"], parts["text_encoder"], parts["detector"]
    levels = dict(zip(image.outputs, image.module(*image.arguments(inputs)), strict=True))
    features = text.module(*text.arguments(inputs))
    explained: Any = detector.module.explained
    scores, boxes, decided = explained(*detector.arguments({**inputs, **levels, "text_features": features}))
    return {
        "image_features": sampled([level[0].numpy() for level in levels.values()]),
        "text_features": features[0].numpy(),
        "token_scores": scores[0].numpy(),
        "boxes": boxes[0].numpy(),
        "decided": decided[0].numpy(),
    }


def _tensors(arrays: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
