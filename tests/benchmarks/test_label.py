import shutil

from openset.sources import find_sources
from tests.benchmarks import label
from tests.benchmarks.live_server import ROOT, serving


def test_both_ways_answer_every_picture_and_have_a_rate(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        shutil.copy(ROOT / "server/examples/scene.jpg", tmp_path / "pictures" / f"{number}.jpg")
    with serving(tmp_path, "--log-level", "warning") as server:
        ((looped, labelled),) = label.rates(server, find_sources([str(tmp_path / "pictures")]), tmp_path, rounds=1)
    assert looped > 0
    assert labelled > 0
