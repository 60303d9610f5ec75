"""Chooses the template that the checkpoint of a repository fits, whatever it is called there."""

from pathlib import Path

from export.templates.fill import misfit
from export.templates.template import StoredTemplate, published_templates, read_template
from models import UnknownCheckpoint, checkpoints


def template_for(checkpoint: Path) -> StoredTemplate:
    """The template of the checkpoint's model; UnknownCheckpoint says why the nearest one does not fit."""
    weights = checkpoints.read(checkpoint)
    nearest = (0, "it shares no tensor with any of them")
    for file in published_templates():
        stored = read_template(file)
        reason = misfit(stored.template, weights)
        if reason is None:
            return stored
        names = {
            alias
            for container in stored.template.containers.values()
            for source in container.table().sources.values()
            for part in source.parts
            for alias in part
        }
        shared = len(names & weights.tensors.keys())
        nearest = max(nearest, (shared, f"{stored.template.name}: {reason}"), key=lambda found: found[0])
    raise UnknownCheckpoint(f"no template has this model; the nearest is {nearest[1]}")
