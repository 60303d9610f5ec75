"""Reads reference outputs and compares results with them.

The folder is the one that the environment variable OPENSET_REFERENCE names, or the copy beside this file. Further
variants can be put into its `golden` and `inventories` unchanged: family and variant come from a file's name.
"""

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FOLDER = Path(os.environ.get("OPENSET_REFERENCE") or Path(__file__).parent / "reference")
Array = npt.NDArray[np.generic]

# (absolute part, part relative to the reference's standard deviation): at least ten times the measured float32 noise.
CLIP_LOGITS, CLIP = (5e-4, 0.0), (0.0, 2e-4)
PROPOSAL_SCORES, GROUNDING_DINO = (5e-4, 0.0), (0.0, 5e-4)
# Decoder outputs are compared query by query where both rank the same proposal there: near ties may swap two.
QUERY_LOGIT, QUERY_BOX, QUERY_SHARE = 1e-2, 3e-4, 0.97
# GLIP's deformable sampling amplifies noise at single positions, so a share of the elements is held to these.
GLIP, GLIP_TOWER, GLIP_HEAD = (0.0, 5e-4), (0.0, 1e-2), (5e-3, 1e-3)
GLIP_SHARE = 0.999


def _recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_recipe", FOLDER / "recipe.py")
    assert spec is not None, FOLDER
    assert spec.loader is not None, FOLDER
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = _recipe()


@dataclass(frozen=True)
class Golden:
    """One reference file, such as "groundingdino_SwinT_OGC_single" or "hf_clip_ViT-B-32"."""

    name: str

    @property
    def family(self) -> str:
        """ "clip", "grounding_dino", or what stands before the first underscore."""
        known = {"clip": "clip", "groundingdino": "grounding_dino"}
        return next((family for word, family in known.items() if word in self.name), self.name.split("_")[0])

    @property
    def kind(self) -> str:
        """The container its weights are published in: "openai", "idea", "microsoft" or "hf"."""
        published = {"clip": "openai", "grounding_dino": "idea", "glip": "microsoft"}
        return "hf" if self.name.startswith("hf_") else published.get(self.family, "unknown")

    @property
    def inventory(self) -> str:
        """The inventory of its weights; several runs of a detector, named by the last word, share one."""
        own = FOLDER / "inventories" / f"{self.name}.json"
        return self.name if own.is_file() else self.name.rsplit("_", 1)[0]

    @property
    def variant(self) -> str:
        """What the inventory's name says after the family, such as "SwinT_OGC"."""
        return self.inventory.split("clip_")[-1].split("groundingdino_")[-1].split("glip_")[-1]

    @cached_property
    def data(self) -> dict[str, Array]:
        """The arrays of the file."""
        with np.load(FOLDER / "golden" / f"{self.name}.npz") as file:
            return {key: file[key] for key in file.files}

    def images(self, mean: tuple[float, ...], std: tuple[float, ...], **changes: object) -> list[Tensor]:
        """The normalised input images, each [3, H, W] float32; `changes` go to the recipe (scale, bgr)."""
        images = []
        for line in self.data["image_recipe"]:
            name, height, width, cells = str(line).split(",")
            image = recipe.smooth_image(name, int(height), int(width), int(cells))
            images.append(torch.from_numpy(recipe.chw_normalised(image, mean, std, **changes)))
        return images

    def holds(self, key: str) -> bool:
        """True if the file has this result, whole or as a sample."""
        return key in self.data or f"{key}__sample" in self.data

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a result that the file holds."""
        return tuple(map(int, self.data[f"{key}__shape"])) if f"{key}__shape" in self.data else self.data[key].shape

    def difference(self, key: str, value: Tensor, tolerance: tuple[float, float], *, share: float = 1.0) -> str:
        """What is wrong with `value`, in words; empty where a `share` of its elements is within `tolerance`."""
        mine = value.detach().cpu().numpy()
        if mine.shape != self.shape(key):
            return f"{key}: shape {mine.shape}, the reference's is {self.shape(key)}"
        if key in self.data:
            theirs, mine = self.data[key].ravel(), mine.ravel()
        else:
            theirs, mine = self.data[f"{key}__sample"], mine.ravel()[:: int(self.data[f"{key}__step"])]
        finite = np.isfinite(theirs)
        if not np.array_equal(finite, np.isfinite(mine)):
            return f"{key}: infinities differ"
        theirs, mine = theirs[finite].astype(np.float64), mine[finite].astype(np.float64)
        allowed = tolerance[0] + tolerance[1] * theirs.std()
        errors = np.abs(theirs - mine)
        if not errors.size or (errors <= allowed).mean() >= share:
            return ""
        return f"{key}: differs by {errors.max():.2e}, allowed are {allowed:.2e} for {share:.1%}"

    def __str__(self) -> str:
        return self.name


def goldens(family: str) -> list[Golden]:
    """The reference files of a family, by name."""
    return [golden for golden in all_goldens() if golden.family == family]


def all_goldens() -> list[Golden]:
    """Every reference file in the folder, by name."""
    return [Golden(path.stem) for path in sorted((FOLDER / "golden").glob("*.npz"))]


def inventories(family: str) -> list[Golden]:
    """The weights of a family, also those without outputs, as references without data."""
    found = [Golden(path.stem) for path in sorted((FOLDER / "inventories").glob("*.json"))]
    return [golden for golden in found if golden.family == family]


def entries(inventory: str) -> Mapping[str, Mapping[str, object]]:
    """Name -> shape, dtype and rule of each tensor of an inventory."""
    return recipe.load_inventory(FOLDER / "inventories" / f"{inventory}.json")["tensors"]


def synthesise(inventory: str) -> dict[str, Tensor]:
    """The synthetic weights of an inventory, surplus entries included."""
    return recipe.synthesise(entries(inventory))
