"""Fetching from the hub: resumed, checked, each refusal one sentence; against a server that speaks its protocol.

`tests/export/test_pull.py` has the whole way, to a bundle that serves.
"""

import json
import socket
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from models import hub
from models.hub import fetch
from models.hub_client import SAVED, HubError
from models.model_zoo import OFFICIAL, repository
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
    assert "licence, according to the hub: MIT" in said


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
        (401, {}, "denies access to openai/clip-vit-base-patch32 (401): there is none of this name"),
        (403, {"X-Error-Code": "GatedRepo"}, "set HF_TOKEN to a token with access"),
        (404, {}, "has no openai/clip-vit-base-patch32 at main, or not the required files (404)"),
        (407, {}, "asks for a login (407)"),
        (429, {"Retry-After": "17"}, "gets too many requests from this address (429): try again in 17 s"),
        (429, {}, "(429): try again later"),
        (503, {}, "answers 503 for openai/clip-vit-base-patch32: try again later"),
        (418, {}, "answers 418 for openai/clip-vit-base-patch32: are HF_ENDPOINT and HF_TOKEN right?"),
        (407, {}, "asks for a login (407): name it with both, as http://user:password@host"),
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


def test_refusal_that_is_no_object_is_one_sentence(server, pull, monkeypatch):
    told = {"Content-Type": "application/json"}
    monkeypatch.setattr(server, "serve_hub", lambda handler, path: handler.answer(403, b"null", headers=told))
    assert "answers, but not as the hub does (" in refusal(pull)


@pytest.mark.parametrize("answer", [(302, b"", {"Location": "/"}), (200, b"{}", {"Content-Encoding": "gzip"})])
@pytest.mark.parametrize("method", ["serve_hub", "serve_large"])
def test_answers_that_end_nowhere_are_one_sentence(server, pull, monkeypatch, method, answer):
    monkeypatch.setattr(server, method, lambda handler, path: handler.answer(*answer))
    assert "answers, but not as the hub does (" in refusal(pull)


@pytest.mark.parametrize("entry", ["rfilename", "size", "lfs", "blobId"])
@pytest.mark.parametrize("value", [None, 7, "x", [], {"sha256": 7}, True, -1])
def test_listing_of_another_form_is_one_sentence(server, pull, monkeypatch, entry, value):
    listed = server.described
    monkeypatch.setattr(
        server,
        "described",
        lambda name, files: {
            **listed(name, files),
            "siblings": [{"rfilename": "config.json", "size": 1, "blobId": "0" * 40, entry: value}],
        },
    )
    assert "\n" not in refusal(pull)


def test_host_of_the_files_that_refuses_is_named(server, pull, monkeypatch):
    monkeypatch.setattr(server, "serve_large", lambda handler, path: handler.answer(403, b"by the firewall"))
    told = refusal(pull)
    assert told.startswith(f"127.0.0.1, where {server.url} keeps its files, answers 403: try again later")
    assert "HF_TOKEN" not in told


def test_answer_that_is_short_each_time_is_one_sentence(server, pull, monkeypatch):
    monkeypatch.setattr(server, "serve_large", lambda handler, path: handler.answer(200, b"short"))
    told = refusal(pull)
    assert told == f"{server.url} sends less than it has announced: {SAVED}"


@pytest.mark.parametrize("endpoint", ["huggingface.co", "ftp://x", "http://[::1", "http://", "file:///etc"])
def test_endpoint_that_is_no_address_is_told(pull, monkeypatch, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    shown = endpoint.rstrip("/")
    assert refusal(pull) == f"HF_ENDPOINT is {shown!r}; an address such as https://huggingface.co is expected"


@pytest.mark.parametrize("token", ["hf_a\nX-Evil: 1", "hf_\u00e4", "hf_\x7f"])
def test_token_that_no_header_holds_is_told_and_not_shown(server, pull, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    assert refusal(pull) == "HF_TOKEN holds characters that no token has: set it to the token alone"
    assert server.asked == []


def test_unreachable_proxy_is_named_without_its_password(pull, monkeypatch):
    for name, value in (("HF_ENDPOINT", "http://hub.invalid"), ("http_proxy", "http://me:secret@127.0.0.1:1")):
        monkeypatch.setenv(name, value)
    told = refusal(pull)
    assert told.startswith("http://hub.invalid cannot be reached through the proxy http://127.0.0.1:1, which the")
    assert "secret" not in told


def test_password_of_the_endpoint_is_not_shown(pull, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://me:secret@127.0.0.1:1")
    assert "secret" not in refusal(pull)


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


def test_disk_that_fills_up_is_an_error_of_the_disk(server, pull, tmp_path):
    (tmp_path / "there").mkdir()
    digest = server.described("", FILES)["siblings"][1]["lfs"]["sha256"]
    (tmp_path / f"there/model.safetensors.{digest[:16]}.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        pull()


def test_download_that_runs_past_its_announced_size_is_ended(server, pull, tmp_path):
    server.faults.surplus = 50_000_000
    assert "model.safetensors is longer than the 102.4 kB that the hub announced" in refusal(pull)
    assert max(path.stat().st_size for path in (tmp_path / "there").iterdir()) <= len(FILES["model.safetensors"])


def test_repository_without_the_known_files_is_refused(server, pull):
    server.repositories[OFFICIAL_CLIP.repository] = {"README.md": b"moved"}
    assert "has none of model.safetensors, pytorch_model.bin: it may have changed" in refusal(pull)


ANOTHER = repository("someone/clip")


@pytest.fixture
def another(server, monkeypatch):
    """The files of a repository that no name stands for."""
    monkeypatch.setitem(server.repositories, ANOTHER.repository, {})
    return server.repositories[ANOTHER.repository]


def test_shards_are_fetched_with_their_index(server, pull, another):
    shards = {f"model-0000{number}-of-00002.safetensors": WEIGHTS for number in (1, 2)}
    another |= shards | {"model.safetensors.index.json": b"{}", "config.json": b"{}", "optimizer.pt": b"no"}
    fetched = pull(ANOTHER)
    assert {path.name for path in fetched.path.iterdir()} == {*another, "source.json"} - {"optimizer.pt"}
    assert fetched == pull(ANOTHER)


def test_only_weights_of_a_repository_are_fetched_under_any_name(server, pull, another):
    another |= {"best.pth": WEIGHTS, "training_args.bin": b"no", "config.json": b"{}"}
    fetched = pull(ANOTHER)
    assert fetched.path.name == "best.pth"
    assert {path.name for path in fetched.path.parent.iterdir()} == {"best.pth", "config.json", "source.json"}


@pytest.mark.parametrize("type_of", ["siglip", 7, ["clip"]])
def test_model_of_another_family_is_refused_before_its_weights_are_fetched(server, pull, another, type_of):
    another |= {"model.safetensors": WEIGHTS, "config.json": json.dumps({"model_type": type_of}).encode()}
    with pytest.raises(HubError, match=r"is a model of another family: its config.json has model_type"):
        pull(ANOTHER)
    assert server.of("cdn") == []


def test_settings_larger_than_any_are_not_fetched(server, pull, another, monkeypatch):
    monkeypatch.setattr("models.repository_files.MAX_JSON", 100)
    another |= {"model.safetensors": WEIGHTS, "README.md": b"x" * 101}
    with pytest.raises(HubError, match=r"README.md has 101 bytes, 100 at most are read"):
        pull(ANOTHER)
    assert server.times() == {}


def test_licence_from_the_hub_is_shown_on_one_line(server, pull, said):
    server.card = {"license": "mit\x1b[2J\nnext \ud83d"}
    assert pull().licence == "mit [2J next"
    assert "licence, according to the hub: mit [2J next" in said


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
        "iSEE-Laboratory/llmdet_large",
        "GLIPModel/GLIP",
    }
