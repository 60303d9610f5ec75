"""Fetching from the hub: resumed, checked, each refusal one sentence; against a server that speaks its protocol.

`tests/export/test_pull.py` has the whole way, to a bundle that serves.
"""

import json
import socket
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from models import hub
from models.hub import HubError, fetch
from models.model_zoo import OFFICIAL
from tests.models.hub_server import COMMIT, HubServer

WEIGHTS = bytes(range(256)) * 400
OFFICIAL_CLIP = OFFICIAL["clip-vit-base-patch32"]
FILES = {
    "config.json": b'{"model_type": "clip"}',
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"a pickle",
    "README.md": b"read me",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # less than one is lost where a connection breaks
    monkeypatch.setattr(hub, "_PAUSE_S", 0)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)


@pytest.fixture
def server(monkeypatch):
    with HubServer({OFFICIAL_CLIP.repository: dict(FILES)}, card={"license": "mit"}) as started:
        monkeypatch.setenv("HF_ENDPOINT", started.url)
        yield started


@pytest.fixture
def said():
    return []


@pytest.fixture
def pull(server, tmp_path, said):
    return lambda official=OFFICIAL_CLIP: fetch(official, tmp_path / "there", said.append)


def refusal(pull):
    with pytest.raises(HubError) as error:
        pull()
    return str(error.value)


def interrupt(server, pull):
    """A pull whose connection breaks at one byte and never comes past it."""
    server.faults.ends_at = 30_000
    assert "the same command resumes there" in refusal(pull)
    server.faults.ends_at = None


def test_what_is_fetched_is_config_and_safest_weights(server, pull, said):
    fetched = pull()
    assert {path.name for path in fetched.path.iterdir()} == {"config.json", "model.safetensors", "source.json"}
    assert (fetched.path / "model.safetensors").read_bytes() == WEIGHTS
    assert fetched.source == f"hf://{OFFICIAL_CLIP.repository}@{COMMIT}"
    assert "licence, according to the hub: mit" in said


def test_pickled_weights_are_fetched_where_there_are_no_others(server, pull):
    del server.repositories[OFFICIAL_CLIP.repository]["model.safetensors"]
    assert (pull().path / "pytorch_model.bin").read_bytes() == b"a pickle"


def test_published_file_without_a_config_is_itself_what_is_loaded(server, pull):
    official = OFFICIAL["glip-tiny"]
    other = "glip_large_model.pth"
    server.repositories[official.repository] = {official.weights[0]: WEIGHTS, other: b"large"}
    assert pull(official).path.name == "glip_tiny_model_o365_goldg_cc_sbu.pth"
    assert set(server.times()) == {official.weights[0]}


def test_second_time_nothing_is_asked_for(server, pull):
    first = pull()
    server.asked.clear()
    assert pull() == first
    assert server.asked == []


def test_hub_gets_no_request_but_for_the_listing_and_the_files(server, pull):
    pull()
    head = f"/{OFFICIAL_CLIP.repository}/resolve/{COMMIT}"
    assert [(asked.method, asked.path) for asked in server.of("hub")] == [
        ("GET", f"/api/models/{OFFICIAL_CLIP.repository}/revision/main"),
        ("GET", f"{head}/config.json"),
        ("GET", f"/api/resolve-cache{head}/config.json"),
        ("GET", f"{head}/model.safetensors"),
    ]


def test_hub_is_not_told_what_is_installed_here(server, pull):
    pull()
    for asked in server.asked:
        assert "torch" not in asked.headers["user-agent"]
        assert "agent/" not in asked.headers["user-agent"]


def test_no_token_is_sent_unless_the_variable_says_so(server, pull, monkeypatch, tmp_path):
    stored = tmp_path / "token"
    stored.write_text("hf_stored")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(stored))
    pull()
    assert not any("authorization" in asked.headers for asked in server.asked)


def test_token_goes_to_the_hub_and_not_to_where_it_redirects(server, pull, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    pull()
    assert {asked.headers.get("authorization") for asked in server.of("hub")} == {"Bearer hf_mine"}
    assert {asked.headers.get("authorization") for asked in server.of("cdn")} == {None}


def test_broken_connection_goes_on_where_it_broke(server, pull):
    server.faults.cut_after, server.faults.cuts = 40_000, 2
    assert (pull().path / "model.safetensors").read_bytes() == WEIGHTS
    assert [asked.range for asked in server.of("cdn")] == [None, "bytes=40000-", "bytes=80000-"]


def test_interrupted_download_goes_on_in_a_later_process(server, pull, tmp_path, said):
    interrupt(server, pull)
    got = sum(path.stat().st_size for path in (tmp_path / "there").glob("*.part"))
    assert 0 < got < len(WEIGHTS)
    assert not (tmp_path / "there/model.safetensors").exists()
    server.asked.clear()
    assert (pull().path / "model.safetensors").read_bytes() == WEIGHTS
    assert [asked.range for asked in server.of("cdn")] == [f"bytes={got}-"]
    assert f"model.safetensors: 102.4 kB, {got / 1e3:.1f} kB of it downloaded before" in said


def test_server_that_ignores_ranges_is_read_from_the_start(server, pull):
    server.faults.cut_after, server.faults.cuts, server.faults.ignored_ranges = 40_000, 1, 1
    assert (pull().path / "model.safetensors").read_bytes() == WEIGHTS


def test_damaged_download_is_fetched_again_from_the_start(server, pull, said):
    server.faults.damaged = 1
    assert (pull().path / "model.safetensors").read_bytes() == WEIGHTS
    assert [asked.range for asked in server.of("cdn")] == [None, None]
    assert "model.safetensors: damaged in transit, its hash is not the hub's" in said


def test_part_that_rotted_on_the_disk_is_found_and_replaced(server, pull, tmp_path):
    interrupt(server, pull)
    (part,) = (tmp_path / "there").glob("*.part")
    part.write_bytes(b"?" + part.read_bytes()[1:])
    assert (pull().path / "model.safetensors").read_bytes() == WEIGHTS


def test_file_damaged_each_time_is_given_up_and_never_stands_under_its_name(server, pull, tmp_path):
    server.faults.damaged = 10**6
    assert refusal(pull) == "model.safetensors arrived damaged 3 times: its hash is not the hub's"
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["config.json"]


def test_damaged_small_file_is_found_by_gits_hash(server, pull, monkeypatch):
    listed = server.described
    config = {"config.json": b'{"model_type": "clop"}'}
    monkeypatch.setattr(server, "described", lambda name, files: listed(name, files | config))
    assert refusal(pull).startswith("config.json arrived damaged")


def test_new_commit_replaces_what_was_begun_of_the_old(server, pull, tmp_path):
    interrupt(server, pull)
    server.commit = "f" * 40
    server.repositories[OFFICIAL_CLIP.repository]["model.safetensors"] = WEIGHTS[::-1]
    fetched = pull()
    assert fetched.source.endswith("f" * 40)
    assert (fetched.path / "model.safetensors").read_bytes() == WEIGHTS[::-1]
    assert not list(fetched.path.glob("*.part"))


def test_checkpoint_is_complete_only_once_all_files_are(server, pull, tmp_path):
    pull()
    (tmp_path / "there/model.safetensors").write_bytes(WEIGHTS[:-1])
    server.asked.clear()
    assert (pull().path / "model.safetensors").read_bytes() == WEIGHTS
    assert server.asked


@pytest.mark.parametrize(
    ("status", "headers", "sentence"),
    [
        (401, {}, "denies access to openai/clip-vit-base-patch32 (401): it may be gated or deleted."),
        (403, {"X-Error-Code": "GatedRepo"}, "set HF_TOKEN to a token with access"),
        (404, {}, "has no openai/clip-vit-base-patch32 at main, or not the required files (404)"),
        (407, {}, "is not reached (407): the proxy that the environment names asks for a login"),
        (429, {"Retry-After": "17"}, "gets too many requests from this address (429): try again in 17 s"),
        (429, {}, "(429): try again later"),
        (503, {}, "answers 503 for openai/clip-vit-base-patch32: try again later"),
    ],
)
def test_refusal_of_the_hub_is_one_sentence_that_says_what_to_do(server, pull, status, headers, sentence):
    server.faults.refusals, server.faults.status, server.faults.headers = 10**6, status, headers
    told = refusal(pull)
    assert sentence in told
    assert "\n" not in told


@pytest.mark.parametrize("listing", [b"<html>Welcome to the airport</html>", b"[]", b"{}"])
def test_server_that_is_no_hub_is_one_sentence(server, pull, monkeypatch, listing):
    monkeypatch.setattr(server, "serve_hub", lambda handler, path: handler.answer(200, listing))
    assert "answers, but not as the hub does (" in refusal(pull)


def test_redirect_without_end_and_a_body_that_cannot_be_unpacked_are_one_sentence(server, pull, monkeypatch):
    for headers, status in (({"Location": "/again"}, 302), ({"Content-Encoding": "gzip"}, 200)):
        monkeypatch.setattr(
            server, "serve_hub", lambda handler, path, s=status, h=headers: handler.answer(s, b"no gzip", headers=h)
        )
        assert "cannot be reached (" in refusal(pull)


def test_refusal_that_is_no_object_is_one_sentence(server, pull, monkeypatch):
    told = {"Content-Type": "application/json"}
    monkeypatch.setattr(server, "serve_hub", lambda handler, path: handler.answer(403, b"null", headers=told))
    assert "answers, but not as the hub does (" in refusal(pull)


def test_hub_that_cannot_be_reached_is_one_sentence(server, pull, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert "cannot be reached (" in refusal(pull)


def test_proxy_that_cannot_be_reached_is_named(server, pull, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("HTTP_PROXY", proxy.replace("//", "//user:secret@"))
        monkeypatch.setenv("HF_ENDPOINT", "http://hub.test")
        told = refusal(pull)
    assert f"http://hub.test cannot be reached through the proxy {proxy}, which the environment names (" in told
    assert "secret" not in told


def test_offline_mode_asks_nothing_and_says_so(server, pull, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal(pull).startswith("HF_HUB_OFFLINE is set, and the checkpoint is not complete in ")
    assert server.asked == []


def test_offline_mode_takes_what_is_complete(server, pull, monkeypatch):
    first = pull()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pull() == first


def test_disk_without_room_is_told_before_anything_is_fetched(server, pull, monkeypatch):
    monkeypatch.setattr("models.hub.shutil.disk_usage", lambda _: SimpleNamespace(free=100_000))
    told = refusal(pull)
    assert "has 100.0 kB free, the checkpoint and its bundle need 204.8 kB: free some space" in told
    assert server.of("cdn") == []


def test_disk_that_fills_up_is_one_sentence(server, pull, tmp_path):
    (tmp_path / "there").mkdir()
    digest = server.described("", FILES)["siblings"][1]["lfs"]["sha256"]
    (tmp_path / f"there/model.safetensors.{digest[:16]}.part").symlink_to("/dev/full")
    assert refusal(pull).startswith("the disk is full: downloaded data is kept")


def test_download_that_runs_past_its_announced_size_is_ended(server, pull, tmp_path):
    server.faults.surplus = 50_000_000
    assert "model.safetensors is longer than the 102.4 kB that the hub announced" in refusal(pull)
    assert max(path.stat().st_size for path in (tmp_path / "there").iterdir()) <= len(FILES["model.safetensors"])


def test_repository_without_the_known_files_is_refused(server, pull):
    server.repositories[OFFICIAL_CLIP.repository] = {"README.md": b"moved"}
    assert "has none of model.safetensors, pytorch_model.bin: it may have changed" in refusal(pull)


def test_record_of_another_repository_counts_for_nothing(server, pull, tmp_path):
    pull()
    record = json.loads((tmp_path / "there/source.json").read_text())
    (tmp_path / "there/source.json").write_text(json.dumps(record | {"repository": "someone/else"}))
    server.asked.clear()
    pull()
    assert server.asked


def test_each_official_model_names_its_repository_and_weights():
    assert {official.repository for official in OFFICIAL.values()} == {
        "openai/clip-vit-base-patch32",
        "openai/clip-vit-base-patch16",
        "openai/clip-vit-large-patch14",
        "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
        "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",
        "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
        "IDEA-Research/grounding-dino-tiny",
        "IDEA-Research/grounding-dino-base",
        "iSEE-Laboratory/llmdet_tiny",
        "iSEE-Laboratory/llmdet_base",
        "GLIPModel/GLIP",
    }
