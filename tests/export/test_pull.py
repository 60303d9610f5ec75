"""`openset pull` and `openset serve --model`: from a server that speaks the hub's protocol to a model that answers.

What can go wrong on the way is in `tests/models/test_hub.py`.
"""

import errno
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
from filelock import FileLock
from safetensors.torch import save

from export import pull
from export.bundle import certify_filled
from export.progress import Progress
from export.templates import template as templates
from export.templates.make import ModelSpec, make_template
from models.clip.config import ClipConfig, TextConfig, VisionTransformerConfig
from models.clip.model import Clip
from models.model_zoo import OFFICIAL
from server.__main__ import main
from server.contract.manifest import read_manifest, write_manifest
from server.registry.model_cache import pulled_bundle
from tests.e2e.conftest import free_port, until
from tests.models.hub_server import COMMIT, HubServer
from tests.models.shaking import shaken
from tests.models.small_clip import hf_config, hf_tensors
from tests.parity import containers, golden

ROOT = Path(__file__).parents[2]
CLIP = "clip-vit-base-patch32"
REPOSITORY = OFFICIAL[CLIP].repository


CONFIG = ClipConfig(24, VisionTransformerConfig(32, 8, 32, 2, 2), TextConfig(width=32, layers=2, heads=2))


@pytest.fixture(scope="module")
def published():
    """The files of a small CLIP as the hub has them, always the same weights; its vocabulary is the official one."""
    torch.manual_seed(0)
    return {
        "config.json": json.dumps(hf_config(CONFIG)).encode(),
        "model.safetensors": save(hf_tensors(shaken(Clip(CONFIG)))),
    }


@pytest.fixture(scope="module")
def small_template(tmp_path_factory):
    """The template of the small CLIP in place of the official one's, in this process and in those that it starts."""
    folder = tmp_path_factory.mktemp("templates")
    make_template(ModelSpec(CLIP, "clip", "small", CONFIG), folder / f"{CLIP}.zip", progress=Progress(quiet=True))
    (folder / "sitecustomize.py").write_text(
        "import sys, pathlib\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from export.templates import template\n"
        f"template.PUBLISHED = pathlib.Path({str(folder)!r})\n",
        encoding="utf-8",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(templates, "PUBLISHED", folder)
        patch.setenv("PYTHONPATH", str(folder))
        yield folder


@pytest.fixture(scope="module")
def hub(published):
    with pytest.MonkeyPatch.context() as patch, HubServer({REPOSITORY: published}) as started:
        patch.setenv("HF_ENDPOINT", started.url)
        patch.setenv("NO_PROXY", "localhost,127.0.0.1")
        patch.delenv("HF_TOKEN", raising=False)
        yield started


@pytest.fixture(scope="module")
def cache(hub, small_template, tmp_path_factory):
    """A cache into which two pulls of one model went at once."""
    folder = tmp_path_factory.mktemp("cache")
    with ThreadPoolExecutor(2) as threads:
        statuses = list(threads.map(lambda _: main(["pull", CLIP, "--cache-dir", str(folder)]), range(2)))
    assert statuses == [0, 0]
    return folder


@contextmanager
def serving(*arguments, **environment):
    """A client of `openset serve` with these arguments, once it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", "--port", str(port), "--log-level", "warning", *arguments]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | environment) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

                def ready():
                    assert process.poll() is None, "the server ended"
                    return client.get("/readyz").status_code == 200

                until(ready, "the server is ready", within_s=600)
                yield client
        finally:
            process.terminate()


def asked(client, model=CLIP):
    with (ROOT / "server/examples/dog.jpg").open("rb") as image:
        return client.post("/classify", files={"image": image}, data={"labels": ["dog", "cat"], "model": model})


def test_pulls_at_once_fetch_and_fill_once(cache, hub):
    assert hub.times() == {"model.safetensors": 1}
    manifest = read_manifest(pulled_bundle(cache, CLIP))
    assert all(artefact.certificate.passed for artefact in manifest.artefacts)
    assert (manifest.certified, manifest.template.container) == ("template", "huggingface")
    assert (manifest.name, manifest.family) == (CLIP, "clip")
    assert (manifest.source, manifest.licence) == (f"hf://{REPOSITORY}@{COMMIT}", "MIT")


def test_pull_waits_for_another_of_the_same_name_and_says_so(cache, tmp_path, capsys, monkeypatch):
    def make(name, _, bundle, __, *, full):
        shutil.copytree(pulled_bundle(cache, name), bundle)

    monkeypatch.setattr(pull, "_fetch_and_make", make)
    with ThreadPoolExecutor(1) as thread:
        with FileLock(tmp_path / f"{CLIP}.lock"):
            waiting = thread.submit(main, ["pull", CLIP, "--cache-dir", str(tmp_path)])
            until(lambda: "is being pulled by another process: waiting" in capsys.readouterr().out, "it waits")
            assert not waiting.done()
        assert waiting.result(60) == 0


def test_pulled_model_serves_without_a_hub(cache, tmp_path):
    nobody = f"http://127.0.0.1:{free_port()}"
    with serving("--model", CLIP, "--cache-dir", str(cache), HF_ENDPOINT=nobody) as client:
        answer = asked(client)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"]["name"] == CLIP
        (model,) = client.get("/models").json()["models"]
        assert (model["source"], model["certified"]) == (f"hf://{REPOSITORY}@{COMMIT}", "template")


def test_first_use_of_a_model_pulls_it(hub, small_template, tmp_path):
    hub.asked.clear()
    with serving(OPENSET_MODEL=CLIP, XDG_CACHE_HOME=str(tmp_path)) as client:
        assert asked(client).status_code == 200
    assert hub.times() == {"model.safetensors": 1}
    assert (tmp_path / "openset/bundles" / CLIP / "manifest.json").is_file()


def test_model_that_is_there_is_not_pulled_again(cache, hub, capsys):
    hub.asked.clear()
    assert main(["pull", CLIP, "--cache-dir", str(cache)]) == 0
    assert f"{CLIP} is already there" in capsys.readouterr().out
    assert hub.asked == []


def test_bundle_without_its_certificate_is_made_again_of_the_checkpoint_here(cache, hub, capsys):
    hub.asked.clear()
    bundle = pulled_bundle(cache, CLIP)
    manifest = read_manifest(bundle)
    bare = tuple(artefact.model_copy(update={"certificate": None}) for artefact in manifest.artefacts)
    write_manifest(bundle, manifest.model_copy(update={"artefacts": bare}))
    assert main(["pull", CLIP, "--cache-dir", str(cache)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{CLIP}: CLIP ViT-B/32, {REPOSITORY} on the Hugging Face hub, licence MIT\n")
    assert told.endswith(f"{bundle}: {CLIP}, certified: template; openset serve --model {CLIP}\n")
    assert hub.asked == []


def test_int8_is_added_to_what_was_pulled_without_torch_and_without_fetching(cache, hub, tmp_path):
    shutil.copytree(cache, tmp_path, dirs_exist_ok=True)
    hub.asked.clear()
    code = (
        "import sys; sys.modules['torch'] = None\n"  # an import of it fails
        "from export import int8_graphs\n"
        "int8_graphs.speedups = lambda *_: {'text_encoder': 2.0, 'image_encoder': 1.0}\n"  # small graphs gain nothing
        "from server.__main__ import main\n"
        f"sys.exit(main(['pull', {CLIP!r}, '--precision', 'int8', '--cache-dir', {str(tmp_path)!r}]))"
    )
    for _ in range(2):  # the second time it is there
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert hub.asked == []
    manifest = read_manifest(pulled_bundle(tmp_path, CLIP))
    precisions = [artefact.precision for artefact in manifest.artefacts]
    assert precisions == ["int8", "fp32", "fp32"], "of the part that gains"
    assert manifest.certified == "template"
    assert not any(a.certificate.of_template for a in manifest.artefacts if a.precision == "int8"), "of these weights"
    assert main(["verify", str(pulled_bundle(tmp_path, CLIP))]) == 0


def test_pulled_int8_is_told_and_taken_out_again(cache, hub, tmp_path, capsys):
    bundle = pulled_bundle(tmp_path, CLIP)
    shutil.copytree(cache, tmp_path, dirs_exist_ok=True)
    before = read_manifest(bundle)
    graph = next(a for a in before.artefacts if a.part == "text_encoder")
    int8 = graph.model_copy(update={"precision": "int8", "file": "text_encoder.int8.onnx", "data": ()})
    (bundle / int8.file).touch()
    write_manifest(bundle, before.model_copy(update={"artefacts": (int8, *before.artefacts)}))
    assert main(["pull", CLIP, "--cache-dir", str(tmp_path)]) == 0
    assert "already there; int8 on CPUs: text_encoder; remove" in capsys.readouterr().out
    assert main(["models", "--cache-dir", str(tmp_path)]) == 0
    assert "; int8 on CPUs: text_encoder\n" in capsys.readouterr().out
    assert main(["pull", CLIP, "--precision", "fp32", "--cache-dir", str(tmp_path)]) == 0
    assert read_manifest(bundle) == before
    assert not (bundle / int8.file).exists()


def test_int8_of_a_bundled_model_is_made_of_a_copy(tmp_path, capsys, monkeypatch):
    """The commands that the refusal names are run, but for the plan."""
    assert main(["pull", "clip-mini", "--precision", "int8"]) == 2
    told = capsys.readouterr().err
    copy, export = told.partition("For int8: ")[2].partition(", then ")[0].split(" && ")
    monkeypatch.chdir(tmp_path)
    assert subprocess.run(copy, shell=True, check=False).returncode == 0
    planned = []
    monkeypatch.setattr("export.int8_graphs.add_int8", lambda folder, progress: planned.append(read_manifest(folder)))
    assert main(export.removeprefix("openset ").split()) == 0
    assert [manifest.name for manifest in planned] == ["clip-mini-int8"]


def test_full_pull_exports_the_checkpoint_that_is_here(cache, hub, tmp_path, capsys):
    hub.asked.clear()
    shutil.copytree(cache, tmp_path / "cache")
    pull_full = ["pull", CLIP, "--full", "--cache-dir", str(tmp_path / "cache")]
    assert main(pull_full) == 0
    assert f"{CLIP}, certified: full; openset serve" in capsys.readouterr().out
    manifest = read_manifest(pulled_bundle(tmp_path / "cache", CLIP))
    assert (manifest.certified, manifest.template) == ("full", None)
    for again in (pull_full, pull_full[:2] + pull_full[3:]):
        assert main(again) == 0
        assert "is already there" in capsys.readouterr().out
    assert hub.asked == []


def test_verify_with_the_checkpoint_certifies_a_pulled_bundle_in_full(cache, tmp_path, capsys):
    bundle = shutil.copytree(pulled_bundle(cache, CLIP), tmp_path / "bundle")
    assert main(["verify", str(bundle), "--quiet"]) == 0
    told = capsys.readouterr()
    assert told.out == f"{bundle}: verified; certified: template\n"
    assert f"certified by the template {CLIP}, whose graphs were measured with synthetic weights" in told.err
    assert main(["verify", str(bundle), "--checkpoint", str(cache / "checkpoints" / CLIP), "--quiet"]) == 0
    assert capsys.readouterr() == (f"{bundle}: verified; certified: full\n", "")
    manifest = read_manifest(bundle)
    assert all(artefact.certificate.data_sha256 == artefact.data[0].sha256 for artefact in manifest.artefacts)
    assert main(["verify", str(bundle), "--quiet"]) == 0
    assert capsys.readouterr() == (f"{bundle}: verified; certified: full\n", "")


def test_interrupted_certification_of_a_pulled_bundle_changes_nothing(cache, tmp_path, monkeypatch):
    bundle = shutil.copytree(pulled_bundle(cache, CLIP), tmp_path / "bundle")
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("export.bundle.measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        certify_filled(bundle, cache / "checkpoints" / CLIP)
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before


def test_verify_with_another_checkpoint_is_refused(cache, published, tmp_path, capsys):
    bundle = shutil.copytree(pulled_bundle(cache, CLIP), tmp_path / "bundle")
    for name, content in published.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "model.safetensors").write_bytes(save(hf_tensors(shaken(Clip(CONFIG)))))
    assert main(["verify", str(bundle), "--checkpoint", str(tmp_path), "--quiet"]) == 2
    assert "has other weights than" in capsys.readouterr().err


def test_bundle_that_fails_its_certificate_is_a_failure_and_counts_as_none(cache, tmp_path, capsys, monkeypatch):
    def failing(checkpoint, bundle, **_):
        shutil.copytree(pulled_bundle(cache, CLIP), bundle)
        manifest = read_manifest(bundle)
        failed = manifest.artefacts[0].certificate.model_copy(update={"passed": False})
        first = manifest.artefacts[0].model_copy(update={"certificate": failed})
        write_manifest(bundle, manifest.model_copy(update={"artefacts": (first, *manifest.artefacts[1:])}))

    monkeypatch.setattr("export.bundle.export_bundle", failing)
    assert main(["pull", CLIP, "--full", "--cache-dir", str(tmp_path)]) == 1
    assert (
        capsys.readouterr().err == f"openset pull: {tmp_path}/bundles/{CLIP} is written, but FAILED its certificate\n"
    )


def test_names_are_listed_with_their_licences_and_nothing_is_loaded_for_it():
    code = (
        "import sys; from server.__main__ import main; main(['pull'])\n"
        "sys.exit(sorted({'torch', 'onnx', 'huggingface_hub'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(OFFICIAL)
    assert re.search(r"^grounding-dino-tiny +Grounding DINO Swin-T +Apache-2.0 +IDEA-Research/", "\n".join(lines), re.M)


@pytest.mark.parametrize("name", ["clip-vit-base", "../elsewhere"])
def test_unknown_name_is_refused_with_what_to_do_instead(name, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENSET_CACHE_DIR", str(tmp_path / "none"))
    assert main(["pull", CLIP, name]) == 2
    told = capsys.readouterr().err
    assert re.search(rf"{name!r} is no official model(, clip-vit-base-patch(16|32) is)?; known are {CLIP}, ", told)
    for way in ("repositories of these families as org/name", "openset export --checkpoint FILE", "serve --bundle"):
        assert way in told
    assert told.endswith(f"Pulled models are in {tmp_path / 'none'}\n")
    assert not (tmp_path / "none").exists()


def test_cache_that_this_user_may_not_write_to_is_told_with_the_way_out(capsys, tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path / "bundles"))

    monkeypatch.setattr(Path, "mkdir", refused)  # the tests may run as root, whom no folder refuses
    assert main(["pull", CLIP, "--cache-dir", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert f"Permission denied: '{tmp_path / 'bundles'}': this user may not write there. " in told
    assert told.endswith("choose another folder with --cache-dir or OPENSET_CACHE_DIR\n")


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EROFS, "this user may not write there. Change the folder's owner, or choose another folder with"),
        (errno.ENOTDIR, "choose another folder with --cache-dir or OPENSET_CACHE_DIR"),
        (errno.ENOSPC, "the disk is full ("),
        (errno.EDQUOT, "the disk is full ("),
    ],
)
def test_error_of_the_disk_tells_the_way_out(cache, tmp_path, capsys, monkeypatch, number, told):
    def failing(*_, **__):
        raise OSError(number, os.strerror(number), str(tmp_path / "bundles"))

    shutil.copytree(cache / "checkpoints", tmp_path / "checkpoints")
    monkeypatch.setattr("export.templates.fill.fill_parts", failing)
    assert main(["pull", CLIP, "--cache-dir", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err
    assert list((tmp_path / "bundles").iterdir()) == []


def test_leftovers_of_a_killed_pull_are_removed_and_those_of_others_not(cache, tmp_path):
    shutil.copytree(cache / "checkpoints", tmp_path / "checkpoints")
    left, others = (tmp_path / "bundles" / f".{name}-abcd_123" for name in (CLIP, f"{CLIP}-datacomp"))
    for folder in (left, others):
        folder.mkdir(parents=True)
    assert main(["pull", CLIP, "--cache-dir", str(tmp_path)]) == 0
    assert (left.exists(), others.exists()) == (False, True)


def test_bundled_model_needs_no_pull(capsys, tmp_path):
    assert main(["pull", "glip-mini", "--cache-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "glip-mini ships with the package: there is nothing to pull\n"


def test_no_name_in_a_variable_is_nothing_to_pull(capsys):
    assert main(["pull", ""]) == 0
    assert capsys.readouterr().out == "no model is named: there is nothing to pull\n"


ANOTHER = "Someone/CLIP-tuned"


@pytest.fixture
def another(hub, published, monkeypatch):
    """A repository that no name stands for, with a model card."""
    files = published | {"README.md": b"---\nlicense: cc-by-4.0\n---\nA model."}
    monkeypatch.setitem(hub.repositories, ANOTHER, files)
    hub.asked.clear()
    return files


def test_any_repository_is_pulled_by_the_template_that_fits_and_served(another, hub, small_template, tmp_path):
    assert main(["pull", ANOTHER, "--cache-dir", str(tmp_path)]) == 0
    manifest = read_manifest(pulled_bundle(tmp_path, ANOTHER))
    assert (manifest.name, manifest.template.name) == ("someone--clip-tuned", CLIP)
    assert (manifest.source, manifest.licence) == (f"hf://{ANOTHER}@{COMMIT}", "CC-BY-4.0")
    with serving("--model", ANOTHER, "--cache-dir", str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9") as client:
        answer = asked(client, "someone--clip-tuned")
        assert answer.status_code == 200, answer.text


def test_revision_of_a_repository_is_a_model_of_its_own(another, hub, small_template, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "revisions", {"main", "v2"})
    assert main(["pull", f"{ANOTHER}@v2", ANOTHER, "--cache-dir", str(tmp_path)]) == 0
    names = {folder.name for folder in (tmp_path / "bundles").iterdir()}
    assert names == {"someone--clip-tuned", "someone--clip-tuned--v2"}
    assert [asked.path for asked in hub.of("hub", "v2")] == [f"/api/models/{ANOTHER}/revision/v2"]
    assert main(["pull", f"{ANOTHER}@v3", "--cache-dir", str(tmp_path)]) == 2


def test_repository_of_another_model_is_refused_with_what_it_needs(
    another, hub, small_template, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(
        hub.repositories, ANOTHER, another | {"config.json": json.dumps({"projection_dim": 7}).encode()}
    )
    found = importlib.util.find_spec
    monkeypatch.setattr(pull.importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    assert main(["pull", ANOTHER, "--cache-dir", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert f"{ANOTHER}: no template has this model; the nearest is {CLIP}: " in told
    assert "needs torch: " in told


def test_repository_with_other_tokens_is_not_filled(another, hub, small_template, tmp_path, capsys, monkeypatch):
    tokenizer = json.dumps({"model": {"vocab": {"dog": 0}}}).encode()
    monkeypatch.setitem(hub.repositories, ANOTHER, another | {"tokenizer.json": tokenizer})
    monkeypatch.setattr("export.bundle.export_bundle", lambda *_, **__: None)
    assert main(["pull", ANOTHER, "--cache-dir", str(tmp_path)]) == 1
    assert "tokenizer.json has a vocabulary of its own: it is exported, with PyTorch" in capsys.readouterr().out


def test_misspelt_name_of_a_bundled_model_is_told(capsys, tmp_path):
    assert main(["pull", "clip-min", "--cache-dir", str(tmp_path)]) == 2
    assert "'clip-min' is no official model, clip-mini is bundled; known are" in capsys.readouterr().err


def test_server_with_an_unknown_model_ends_before_it_listens(capfd, tmp_path):
    assert main(["serve", "--model", "clip-vit", "--cache-dir", str(tmp_path)]) == 2
    told = capfd.readouterr().err
    assert "openset pull: 'clip-vit' is no official model" in told
    assert told.endswith("openset serve: the model 'clip-vit' could not be pulled (see above)\n")


@pytest.mark.parametrize(
    ("missing", "options", "extra"),
    [
        ("onnxruntime", [], "cpu"),
        ("httpx2", ["--full"], "export"),
        ("torch", ["--full"], "export"),
        ("onnx", ["--precision", "int8"], "int8"),
    ],
)
def test_what_is_not_installed_is_told_before_anything_is_fetched(
    hub, tmp_path, capsys, monkeypatch, missing, options, extra
):
    found = importlib.util.find_spec
    monkeypatch.setattr(pull.importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    hub.asked.clear()
    assert main(["pull", CLIP, *options, "--cache-dir", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert f"{missing}, which is not installed. Install it with {sys.executable} -m pip install" in told
    assert f"[{extra}]'" in told
    assert hub.asked == []


def test_refusal_of_the_hub_is_one_line_and_status_one(hub, tmp_path, capsys):
    hub.faults.refusals, hub.faults.status = 1, 429
    assert main(["pull", CLIP, "--cache-dir", str(tmp_path), "--quiet"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_wrong_checkpoint_is_refused_and_leaves_no_bundle(
    hub, published, small_template, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(hub.repositories, REPOSITORY, published | {"model.safetensors": b"no tensors"})
    assert main(["pull", CLIP, "--cache-dir", str(tmp_path)]) == 2
    assert "model.safetensors is a text, not weights" in capsys.readouterr().err
    assert not (tmp_path / "bundles" / CLIP).exists()


def test_interrupted_pull_says_that_it_goes_on(tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pull, "_fetch_and_make", interrupted)
    assert main(["pull", CLIP, "--cache-dir", str(tmp_path)]) == 130
    assert "interrupted; downloaded data is kept" in capsys.readouterr().err


def test_server_told_to_stop_while_it_pulls_takes_the_pull_along(hub, tmp_path):
    hub.faults.stall = True
    environment = os.environ | {"OPENSET_MODEL": CLIP, "OPENSET_CACHE_DIR": str(tmp_path)}
    try:
        with subprocess.Popen([sys.executable, "-m", "server", "serve"], cwd=ROOT, env=environment) as process:
            hub.asked.clear()
            until(lambda: hub.of("cdn"), "the weights are asked for")
            (child,) = children(process.pid)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            until(lambda: not Path(f"/proc/{child}").exists(), "the pull has ended")
    finally:
        hub.faults.stall = False


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "inventory"),
    [
        (CLIP, "hf_clip_ViT-B-32"),
        ("grounding-dino-tiny", "hf_groundingdino_tiny"),
        ("glip-tiny", "glip_T"),
    ],
)
def test_published_size_is_pulled_certified_and_served(name, inventory, hub, tmp_path, monkeypatch):
    tensors = golden.synthesise(inventory)
    official = OFFICIAL[name]
    if official.config is None:
        containers.write_data_parallel(tmp_path / official.weights[0], tensors)
    elif name == CLIP:
        containers.write_huggingface(tmp_path, tensors, containers.clip_hf_config(tensors))
    else:
        containers.write_huggingface(tmp_path, tensors, containers.grounding_dino_hf_config("tiny"))
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setitem(hub.repositories, official.repository, files)
    hub.described(official.repository, files)  # hashes them
    assert main(["pull", name, "--cache-dir", str(tmp_path / "cache")]) == 0
    with serving("--model", name, "--cache-dir", str(tmp_path / "cache"), "--warm-up", "none") as client:
        if name == CLIP:
            assert asked(client).status_code == 200
        else:
            with (ROOT / "server/examples/scene.jpg").open("rb") as image:
                answer = client.post("/detect", files={"image": image}, data={"labels": "dog"}, timeout=600)
            assert answer.status_code == 200
            assert answer.json()["model"]["name"] == name
