"""Optimization profiles of an engine: ranges of every dynamic axis of a part's inputs, from the manifest's buckets.

The axes of a feature level, such as `height_8`, are the input's side over the level's stride, rounded up.

Two plans. "one": a single profile over all buckets, for TensorRT-RTX, which specialises kernels at run time and whose
engine repeats its code for every profile. "buckets": a profile for each token bucket and for broad or tall images, for
TensorRT, which chooses kernels at a profile's optimum shape.
"""

import re
from collections.abc import Collection, Iterator
from itertools import product
from typing import Literal

from server.bundle import TEXT_BATCH
from server.contract.image import canvas_size
from server.contract.image_file import MAX_ASPECT_RATIO
from server.contract.manifest import Manifest

Span = tuple[int, int, int]  # minimum, optimum, maximum
Profile = dict[str, Span]
Plan = Literal["one", "buckets"]

_LEVEL = re.compile(r"(height|width)_([1-9][0-9]*)")
# Rounding may take the longer side of the thinnest strip that is served beyond its bound by half of its aspect ratio.
_ROUNDED_BY = int(MAX_ASPECT_RATIO // 2)


def profiles(manifest: Manifest, axes: Collection[str], plan: Plan) -> tuple[Profile, ...]:
    """Profiles of a part whose inputs have these dynamic axes; ValueError names an unknown axis."""
    known = {"batch", "height", "width", "tokens"}
    if unknown := {axis for axis in axes if axis not in known and not _LEVEL.fullmatch(axis)}:
        raise ValueError(f"no range is known for the axis {', '.join(sorted(unknown))}")
    found: list[Profile] = []
    for pixels, tokens in product(_pixels(manifest, axes, plan), _tokens(manifest, axes, plan)):
        profile = _batch(manifest, axes) | pixels | tokens
        found.append({axis: _span(axis, profile) for axis in sorted(axes)})
    return tuple(found)


def _span(axis: str, profile: Profile) -> Span:
    level = _LEVEL.fullmatch(axis)
    if level is None:
        return profile[axis]
    minimum, optimum, maximum = (-(-size // int(level[2])) for size in profile[level[1]])
    return minimum, optimum, maximum


def _batch(manifest: Manifest, axes: Collection[str]) -> Profile:
    texts = "tokens" in axes and "height" not in axes
    return {"batch": (1, 1, TEXT_BATCH if texts else manifest.buckets.max_batch)}


def _tokens(manifest: Manifest, axes: Collection[str], plan: Plan) -> Iterator[Profile]:
    if "tokens" not in axes:
        yield {}
        return
    bounds = manifest.buckets.tokens or (manifest.text.max_tokens,)
    if plan == "one":
        yield {"tokens": (1, min(2 * bounds[0], bounds[-1]), bounds[-1])}
        return
    for least, bound in zip((1, *(bound + 1 for bound in bounds)), bounds, strict=False):
        yield {"tokens": (least, bound, bound)}


def _pixels(manifest: Manifest, axes: Collection[str], plan: Plan) -> Iterator[Profile]:
    rules, buckets = manifest.preprocessing, manifest.buckets
    if "height" not in axes:
        yield {}
        return
    if rules.longer is None:
        side, _ = canvas_size(rules.shorter, rules.shorter, buckets)
        yield {"height": (side, side, side), "width": (side, side, side)}
        return
    strip = max(1, round(rules.longer / MAX_ASPECT_RATIO)), rules.longer + _ROUNDED_BY
    least, largest = canvas_size(*strip, buckets)
    shorter, usual = canvas_size(rules.shorter, min(rules.shorter * 4 // 3, rules.longer), buckets)
    if plan == "one":
        yield {"height": (least, shorter, largest), "width": (least, usual, largest)}
        return
    short_side, long_side = (least, shorter, shorter), (least, usual, largest)
    yield {"height": short_side, "width": long_side}
    yield {"height": long_side, "width": short_side}
