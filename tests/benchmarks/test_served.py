from tests.benchmarks import served
from tests.benchmarks.live_server import serving


def test_overhead_of_each_model_and_picture_is_what_its_client_waits_for_beside_the_model(tmp_path):
    with serving(tmp_path, *served.FLAGS) as server:
        _, _, *rows = [row.strip("| ").split(" | ") for row in served.overhead_table({"this": server}, rounds=1)]
        assert server.cpu_seconds() > 0
    assert [row[:2] for row in rows] == [[m, s] for m in served.MODELS for s in ("640x480", "4000x3000")]
    for wall, decode, preprocess, infer, beside, beyond in (map(float, row[3:]) for row in rows):
        assert wall > beside > beyond > 0
        assert 0 < decode + preprocess < beside + 0.1
        assert infer > 0
