"""The model cache: its folder, which bundles count as pulled, and how a failed pull is told."""

import contextlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from server.registry.model_cache import BUNDLED, PullFailed, cache_folder, is_pulled, pulled_bundle, with_models
from server.settings import Settings, SettingsError


@pytest.fixture
def pulls(monkeypatch):
    """Records the commands that would pull; `status` is what they end with."""
    commands = []

    class Pull(contextlib.nullcontext):
        def __init__(self, command, env):
            super().__init__(self)
            commands.append(command)
            self.returncode = recorded.status

        def poll(self):
            return self.returncode

    recorded = SimpleNamespace(commands=commands, status=0)
    monkeypatch.setattr("server.registry.model_cache.subprocess.Popen", Pull)
    return recorded


def test_cache_is_the_folder_given_else_the_users(monkeypatch):
    assert cache_folder(Path("/models")) == Path("/models")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/me/cache")
    assert cache_folder(None) == Path("/home/me/cache/openset")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder(None) == Path.home() / ".cache/openset"


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """A user without HOME and without an entry in the list of users."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)


def test_user_without_a_home_needs_one_for_pulled_models_only(homeless, tmp_path):
    assert with_models(Settings()).bundle == ()
    assert cache_folder(tmp_path) == tmp_path
    with pytest.raises(SettingsError, match=r"has no home: name one with --cache-dir or OPENSET_CACHE_DIR"):
        with_models(Settings(model=["clip-vit-base-patch32"]))


def test_model_that_ships_with_the_package_is_served_by_its_name_without_a_pull(tmp_path, pulls):
    settings = Settings(model=["glip-mini", "clip-mini"], cache_dir=tmp_path)
    assert with_models(settings).bundle == (BUNDLED / "glip-mini", BUNDLED / "clip-mini")
    assert not pulls.commands


def test_folder_with_a_certified_bundle_is_pulled(tmp_path):
    assert is_pulled(BUNDLED / "clip-mini")
    assert not is_pulled(tmp_path)


def test_pulled_model_is_served_behind_the_bundles_without_pulling(tmp_path, pulls):
    shutil.copytree(BUNDLED / "clip-mini", pulled_bundle(tmp_path, "clip-vit-b-32"))
    settings = Settings(model=["clip-vit-b-32"], cache_dir=tmp_path, bundle=[BUNDLED / "glip-mini"])
    assert with_models(settings).bundle == (BUNDLED / "glip-mini", tmp_path / "bundles/clip-vit-b-32")
    assert pulls.commands == []


def test_missing_model_is_pulled_in_a_process_of_its_own(tmp_path, pulls):
    with_models(Settings(model=["clip-vit-b-32"], cache_dir=tmp_path))
    (command,) = pulls.commands
    assert command[-4:] == ["pull", "clip-vit-b-32", "--cache-dir", str(tmp_path)]


def test_failed_pull_names_the_model_and_has_the_commands_status(tmp_path, pulls):
    pulls.status = 3
    with pytest.raises(PullFailed, match="the model 'clip-vit' could not be pulled") as failure:
        with_models(Settings(model=["clip-vit"], cache_dir=tmp_path))
    assert failure.value.status == 3
