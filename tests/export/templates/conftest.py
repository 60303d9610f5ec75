"""Templates of tiny models of every family, each traced once, and checkpoints for them in every container."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from export.onnx.tracing import to_onnx
from export.progress import Progress
from export.templates.make import ModelSpec, make_template
from export.templates.template import StoredTemplate, read_template
from models.clip.config import ClipConfig, TextConfig, VisionTransformerConfig
from models.registry import FAMILIES, LoadedCheckpoint
from models.tensor_sources import PublishedTable
from tests.models import small_glip, small_grounding_dino
from tests.models.published_tensors import write_published

QUIET = Progress(quiet=True)
WORDS = 30522  # of BERT, whose vocabulary official detectors have
CONFIGS = {
    "clip": ClipConfig(24, VisionTransformerConfig(32, 8, 32, 2, 2), TextConfig(width=32, layers=2, heads=2)),
    "grounding_dino": replace(
        small_grounding_dino.SWIN, text=replace(small_grounding_dino.TEXT, vocab_size=WORDS, max_positions=512)
    ),
    "glip": replace(small_glip.SWIN, text=replace(small_glip.TEXT, vocab_size=WORDS, max_positions=512)),
}
CONTAINERS = [
    ("clip", "openai"),
    ("clip", "huggingface"),
    ("grounding_dino", "idea"),
    ("grounding_dino", "huggingface"),
    ("glip", "microsoft"),
]


@dataclass(frozen=True)
class TinyModel:
    """A tiny model: its template, and the model with other weights than the template was traced with."""

    spec: ModelSpec
    file: Path
    stored: StoredTemplate
    loaded: LoadedCheckpoint

    def table(self, container: str) -> PublishedTable:
        return FAMILIES[self.spec.family].weights.published_tables(self.spec.config)[container]

    def checkpoint(self, container: str, folder: Path) -> Path:
        """Write the model's weights in a container."""
        return write_published(self.loaded, container, folder)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TinyModel]:
    folder = tmp_path_factory.mktemp("templates")
    found = {}
    for family, config in CONFIGS.items():
        spec, file = ModelSpec(f"tiny-{family.replace('_', '-')}", family, "tiny", config), folder / f"{family}.zip"
        make_template(spec, file, certify=family == "clip", progress=QUIET)
        found[family] = TinyModel(spec, file, read_template(file), spec.synthetic(seed=5))
    return found


@pytest.fixture(scope="session")
def exported_graphs(tiny_models: dict[str, TinyModel], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the graphs that an export of each tiny model has, by family."""
    folders = {}
    for family, tiny in tiny_models.items():
        folders[family] = tmp_path_factory.mktemp(family)
        for spec in FAMILIES[family].graphs(tiny.loaded):
            to_onnx(spec, folders[family] / f"{spec.name}.onnx")
    return folders


@pytest.fixture(scope="session")
def tiny_clip(tiny_models: dict[str, TinyModel]) -> TinyModel:
    return tiny_models["clip"]
