"""The folder of a bundle appears complete or not at all, and so does what is added to it."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from export import ExportError
from export.bundle_folder import CANARY_FILE, additions, bundle_in_place, bundle_name, link_files, put, store
from server.bundle import check_file
from server.contract.manifest import BundleError, read_manifest, sha256_of


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_folder_appears_when_it_is_complete(tmp_path):
    with bundle_in_place(tmp_path / "a" / "bundle") as folder:
        (folder / "manifest.json").write_text("{}")
        assert not (tmp_path / "a" / "bundle").exists()
    assert names(tmp_path / "a") == ["bundle"]
    assert (tmp_path / "a" / "bundle").stat().st_mode & 0o777 == 0o755


def test_failure_leaves_nothing_new_and_the_old_bundle(tmp_path):
    with bundle_in_place(tmp_path / "bundle") as folder:
        (folder / "manifest.json").write_text("old")
    with pytest.raises(FileNotFoundError), bundle_in_place(tmp_path / "bundle") as folder:
        (folder / "gone").unlink()
    assert names(tmp_path) == ["bundle"]
    assert (tmp_path / "bundle/manifest.json").read_text() == "old"


def test_old_bundle_is_replaced_whole(tmp_path):
    for name in ("old", "new"):
        with bundle_in_place(tmp_path / "bundle") as folder:
            (folder / "manifest.json").write_text(name)
            (folder / name).write_text("")
    assert names(tmp_path / "bundle") == ["manifest.json", "new"]
    assert names(tmp_path) == ["bundle"]


def test_old_bundle_is_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    with bundle_in_place(tmp_path / "bundle") as folder:
        (folder / "manifest.json").write_text("old")
    rename = Path.rename

    def interrupted(path, target):
        if path.name.startswith(".bundle-"):
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), bundle_in_place(tmp_path / "bundle") as folder:
        (folder / "manifest.json").write_text("new")
    assert names(tmp_path) == ["bundle"]
    assert (tmp_path / "bundle/manifest.json").read_text() == "old"


def test_anything_else_there_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/photo.jpg").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"")
    for target in ("folder", "file"):
        with pytest.raises(ExportError, match="is no bundle"), bundle_in_place(tmp_path / target):
            pass


@pytest.mark.parametrize(("folder", "name"), [("Small CLIP", "small-clip"), ("_v1.0", "v1.0")])
def test_name_is_made_of_the_folder(folder, name):
    assert bundle_name(folder) == name


def test_name_without_a_letter_is_refused():
    with pytest.raises(ExportError, match="bundle name"):
        bundle_name("...")


@pytest.fixture
def bundle(clip_bundle, tmp_path):
    return shutil.copytree(clip_bundle, tmp_path / "bundle")


def changed(added, folder, *, text):
    """The manifest with another canary, and a new graph of each part, whose files are in `added`."""
    manifest = read_manifest(folder)
    canary = store(added, CANARY_FILE, {"text": np.asarray(text)})
    artefacts = []
    for artefact in manifest.artefacts:
        (added / artefact.file).write_text(text)
        artefacts.append(artefact.model_copy(update={"sha256": sha256_of(added / artefact.file), "certificate": None}))
    return manifest.model_copy(update={"artefacts": tuple(artefacts), "canary": canary})


def whole(folder):
    """The bundle's manifest, all files of which are there and unchanged, and no others."""
    manifest = read_manifest(folder)
    entries = [manifest.tokenizer, manifest.canary, manifest.reference, *manifest.artefacts]
    for entry in entries:
        check_file(folder, entry)
    return manifest


def test_additions_take_their_place_and_what_they_replace_goes(bundle):
    for text in ("once", "twice", "twice"):
        with additions(bundle) as added:
            put(added, bundle, changed(added, bundle, text=text))
        manifest = whole(bundle)
        entries = [manifest.tokenizer, manifest.canary, manifest.reference, *manifest.artefacts]
        assert names(bundle) == sorted([entry.file for entry in entries] + ["manifest.json"])
        assert {(bundle / artefact.file).read_text() for artefact in manifest.artefacts} == {text}
    assert names(bundle.parent) == ["bundle"]


@pytest.mark.parametrize("step", range(8))
def test_bundle_is_the_old_or_the_new_one_wherever_an_addition_is_interrupted(bundle, monkeypatch, step):
    old, steps = read_manifest(bundle), iter(range(step))

    def interrupted(method):
        def call(path, *args, **options):
            if bundle in path.parents and next(steps, None) is None:
                raise KeyboardInterrupt
            return method(path, *args, **options)

        return call

    with contextlib.suppress(KeyboardInterrupt), additions(bundle) as added:
        new = changed(added, bundle, text="new")
        with monkeypatch.context() as patch:
            for name in ("replace", "unlink", "write_text"):
                patch.setattr(Path, name, interrupted(getattr(Path, name)))
            put(added, bundle, new)
    hashes = [artefact.sha256 for artefact in whole(bundle).artefacts]
    assert hashes in ([artefact.sha256 for artefact in old.artefacts], [artefact.sha256 for artefact in new.artefacts])


def test_one_command_at_a_time_adds_to_a_bundle_and_clears_up_after_a_killed_one(bundle):
    (bundle / ".added-killed").mkdir()
    (bundle / ".added-killed/graph.onnx").write_bytes(b"half")
    with additions(bundle):
        assert not (bundle / ".added-killed").exists()
        with pytest.raises(ExportError, match="another command is adding to"), additions(bundle):
            pass
    with additions(bundle):
        pass


def test_damaged_file_is_repaired_by_the_same_addition(bundle):
    for _ in range(2):
        with additions(bundle) as added:
            put(added, bundle, changed(added, bundle, text="new"))
        graph = bundle / read_manifest(bundle).artefacts[0].file
        assert graph.read_text() == "new"
        graph.write_text("ne")


def test_folder_that_is_no_bundle_has_no_additions(tmp_path):
    with pytest.raises(BundleError, match="is no bundle"), additions(tmp_path / "none"):
        pass


def test_linked_file_keeps_its_bytes_when_another_is_stored_under_its_name(bundle, tmp_path):
    before = (bundle / CANARY_FILE).read_bytes()
    (bundle / CANARY_FILE).rename(tmp_path / "elsewhere")
    (bundle / CANARY_FILE).symlink_to("../elsewhere")
    with additions(bundle) as added:
        link_files(bundle, [CANARY_FILE], added)
        assert (added / CANARY_FILE).read_bytes() == before
        store(added, CANARY_FILE, {"other": np.zeros(1)})
    assert (bundle / CANARY_FILE).read_bytes() == before
