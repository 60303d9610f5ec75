"""The record of a model family, and the rules by which a bundle of it is served."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from models.checkpoints import StoredWeights
from models.tensor_sources import PublishedTable
from server.contract.manifest import Buckets, ClassificationRules, DetectionRules, Preprocessing, TextRules


class ServingRules(BaseModel):
    """Sections of a manifest that a family fills in; a checkpoint's "serving" section has the same keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preprocessing: Preprocessing
    text: TextRules
    classification: ClassificationRules | None = None
    detection: DetectionRules | None = None
    buckets: Buckets = Buckets()

    def overridden(self, serving: Mapping[str, Any]) -> "ServingRules":
        """These rules with the entries of a "serving" section in place; ValueError names an entry that is wrong."""
        rules = self.model_dump()
        for section, entries in serving.items():
            own = rules.get(section)
            rules[section] = {**own, **entries} if isinstance(own, dict) and isinstance(entries, Mapping) else entries
        try:
            return ServingRules.model_validate(rules)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ValueError(f'the checkpoint\'s "serving" section does not fit: {faults}') from error


class PublishedWeights(Protocol):
    """A family's `weights` module: reads the checkpoints that others published."""

    def recognise(self, names: Collection[str]) -> str | None:
        """Container ("openai", "huggingface", ...) that stores tensors under these names; None for another family's."""

    def published_tables(self, config: Any) -> Mapping[str, PublishedTable]:
        """Tables of the containers that a model of this config is published in."""

    def load(
        self, tensors: Mapping[str, Tensor], container: str, hf_config: dict[str, Any] | None
    ) -> tuple[nn.Module, Any, str]:
        """Model in eval mode with all its weights, its config and the variant's name.

        tensors: by stored name, of the stored dtype; hf_config: the config.json beside them, if any. The size follows
        from the shapes or from hf_config. CheckpointError where the tensors do not fit exactly.
        """


class Description(Protocol):
    """A family's `description` module: reads what the files beside published weights tell about them."""

    def described_config(self, stored: StoredWeights, container: str) -> dict[str, Any] | None:
        """The config.json for `PublishedWeights.load`; CheckpointError where the files contradict the weights."""

    def preprocessing_rules(self, stored: StoredWeights, container: str, config: Any) -> dict[str, Any]:
        """Overrides of the family's preprocessing; CheckpointError for an entry that cannot be obeyed."""


@dataclass(frozen=True)
class Family:
    """A model family; `models.registry.FAMILIES` lists the records that loading, export and training read.

    name: as in manifests and checkpoints. config: its config dataclass, from which `model` builds a fresh model that
    keeps it as `model.config`. vocabulary: tokenizer of checkpoints that bring none (`models.tokenizers`). serving:
    (model, tokenizer file) -> rules. graphs: (loaded checkpoint) -> one `export.graph_spec.GraphSpec` for each part of
    the bundle. task: (recipe, prepared model, process group, frozen modules) -> its training task, None where it cannot
    be trained. description: reader of the files beside published weights, None where only the shapes count.
    `lazy` keeps export and training unimported until they are used.
    """

    name: str
    config: type[Any]
    model: Callable[[Any], nn.Module]
    vocabulary: str
    weights: PublishedWeights
    serving: Callable[[Any, Path], ServingRules]
    graphs: Callable[[Any], Sequence[Any]]
    task: Callable[..., Any] | None = None
    description: Description | None = None


def lazy(path: str) -> Callable[..., Any]:
    """Stand-in for the function at `path` ("module:function"); a call imports the module."""
    module, _, function = path.partition(":")

    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(import_module(module), function)(*arguments, **options)

    return call
