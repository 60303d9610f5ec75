"""The evaluation and pseudo-label commands on the bundled models: a bundle and a server give the same figures."""

import json
from pathlib import Path

import httpx
import pytest

from models.data.odvg import OdvgSet
from models.synthetic.evaluation_set import main as write_set
from server.__main__ import main

EXAMPLES = Path("server/examples")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    assert write_set([str(folder), "--single", "6", "--scenes", "6", "--seed", "20261126"]) == 0
    return folder


def report(*arguments) -> dict:
    assert main(["evaluate", *map(str, arguments)]) == 0
    found: dict = json.loads((arguments[-1] / "report.json").read_text())
    return found


def test_a_bundle_and_a_server_have_the_same_figures(pictures: Path, tmp_path: Path, server: httpx.Client):
    folder = report(pictures, "--out", tmp_path / "folder")
    http = report(pictures, "--url", server.base_url, "--out", tmp_path / "http")
    assert folder["figures"].keys() == http["figures"].keys()
    for measure, figures in folder["figures"].items():  # batches differ, and so does the rounding of sums
        assert http["figures"][measure] == pytest.approx(figures, abs=0.02, nan_ok=True), measure
    assert folder["models"] == http["models"] == ["clip-mini 1", "grounding-dino-mini 1"]
    assert folder["figures"]["classification"]["top-1"] >= 0.5
    assert folder["figures"]["detection"]["AP50"] >= 0.4


def test_the_bundled_detector_grounds_a_caption(tmp_path: Path):
    folder = tmp_path / "captions"
    folder.mkdir()
    (folder / "cow.jpg").write_bytes((EXAMPLES / "cow.jpg").read_bytes())
    (folder / "cow.txt").write_text("a cow next to a bicycle near a banana\n")
    out = tmp_path / "pseudo.jsonl"
    assert main(["pseudo-label", str(folder), "--out", str(out), "--threshold", "0.35"]) == 0
    record = OdvgSet(out, folder)[0]
    assert [record.caption[slice(*region.spans[0])] for region in record.regions] == ["cow"]
