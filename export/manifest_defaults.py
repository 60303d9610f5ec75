"""How a checkpoint is served, as data: its family's own rules, changed where it brings a "serving" section."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from server.contract.manifest import Buckets, ClassificationRules, DetectionRules, Preprocessing, TextRules


class ManifestDefaults(BaseModel):
    """The sections of a manifest that say how a model is served; a checkpoint's "serving" section has the same keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preprocessing: Preprocessing
    text: TextRules
    classification: ClassificationRules | None = None
    detection: DetectionRules | None = None
    buckets: Buckets = Buckets()


def with_serving_section(family: ManifestDefaults, serving: Mapping[str, Any]) -> ManifestDefaults:
    """The family's rules, with the entries of `serving` in their place; ValueError names an entry that is wrong."""
    rules = family.model_dump()
    for section, entries in serving.items():
        own = rules.get(section)
        rules[section] = {**own, **entries} if isinstance(own, dict) and isinstance(entries, Mapping) else entries
    try:
        return ManifestDefaults.model_validate(rules)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f'the checkpoint\'s "serving" section does not fit: {faults}') from error
