"""`openset models`: the models that are bundled, those that were pulled, and the official ones that can be."""

import argparse
import json
import math
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from export.progress import in_int8
from models.model_zoo import OFFICIAL
from server.contract.manifest import BundleError, Manifest, read_manifest
from server.registry.model_cache import BUNDLED, bundle_name, cache_folder, is_pulled, pulled_bundle
from server.settings import SettingsError

TEMPLATES = Path(__file__).parent / "templates" / "published"
_FLOAT_BYTES = 4


class ListedModel(NamedTuple):
    """A model by the name that `--model` takes; `tasks` it can do, `bytes` of its bundle, `extra` that it needs."""

    name: str
    state: str
    tasks: tuple[str, ...]
    bytes: int | None
    licence: str
    extra: str
    about: str
    folder: str | None = None


def run(args: argparse.Namespace) -> int:
    """Run `openset models`."""
    try:
        cache = cache_folder(args.cache_dir)
        models = [*bundled(), *repositories(cache), *official(cache)]
    except (BundleError, SettingsError) as error:
        print(f"openset models: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps([model._asdict() for model in models], indent=1))
        return 0
    head = ("name", "for", "size", "licence", "needs", "there?", "")
    rows = [head, *(_row(model) for model in models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print("\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows))
    return 0


def bundled() -> Iterator[ListedModel]:
    """The models that ship with the package."""
    for folder in sorted(path.parent for path in BUNDLED.glob("*/manifest.json")):
        manifest = read_manifest(folder)
        yield _there(manifest.name, "bundled", folder, manifest, "small: for a first try, and offline")


def repositories(cache: Path) -> Iterator[ListedModel]:
    """Those of other repositories that were pulled, as "org/name" or "org/name@revision"."""
    own = {pulled_bundle(cache, name) for name in OFFICIAL}
    for folder in sorted(cache.glob("bundles/*")):
        if folder not in own and is_pulled(folder):
            manifest = read_manifest(folder)
            yield _there(_repository(folder, manifest.source), "pulled", folder, manifest)


def _repository(folder: Path, source: str) -> str:
    """The name that was pulled to this folder: a repository, its revision where one was given."""
    repository = source.removeprefix("hf://").partition("@")[0]
    own = bundle_name(repository)
    if folder.name == own:
        return repository
    head, _, revision = folder.name.partition(f"{own}--")
    return folder.name if head or not revision else f"{repository}@{revision}"


def _there(name: str, state: str, folder: Path, manifest: Manifest, about: str | None = None) -> ListedModel:
    about = (about or f"{manifest.family}, {manifest.variant}") + in_int8(manifest)
    tasks = tuple(sorted(manifest.tasks))
    return ListedModel(name, state, tasks, _size(folder), manifest.licence, "cpu or gpu", about, str(folder))


def official(cache: Path) -> Iterator[ListedModel]:
    """The official models, as far as `cache` has them."""
    for name, model in OFFICIAL.items():
        folder = pulled_bundle(cache, name)
        about = f"{model.title}, from {model.repository}"
        if is_pulled(folder):
            yield _there(name, "pulled", folder, read_manifest(folder), about)
        else:
            tasks = ("classify", "similarity") if model.family == "clip" else ("detect",)
            needs = "cpu or gpu" if _template(name).is_file() else "cpu,export"
            size = _size_of_template(name)
            yield ListedModel(name, "to be pulled", tasks, size, model.licence, needs, about)


def _row(model: ListedModel) -> tuple[str, ...]:
    size = "" if model.bytes is None else _readable(model.bytes)
    there = f"openset pull {model.name}" if model.state == "to be pulled" else model.state
    return model.name, ", ".join(model.tasks), size, model.licence, model.extra, there, model.about


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{math.ceil(size / 1e6)} MB"


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _template(name: str) -> Path:
    return TEMPLATES / f"{name}.zip"


def _size_of_template(name: str) -> int | None:
    """Bytes of the weights that a template is filled with, read without NumPy; None without a template."""
    try:
        with zipfile.ZipFile(_template(name)) as archive:
            template: dict[str, Any] = json.loads(archive.read("template.json"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    shapes = [one["shape"] for part in template["parts"] for one in part["initializers"]]
    return _FLOAT_BYTES * sum(math.prod(shape) for shape in shapes)
