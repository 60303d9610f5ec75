from export.certificate.int8_agreement import int8_graphs
from server.contract.manifest import read_manifest
from server.registry.model_cache import BUNDLED
from tests.benchmarks import int8


def test_each_part_in_int8_has_its_row_with_both_times(capsys):
    assert int8.main([str(BUNDLED / "clip-mini"), "--rounds", "1", "--unplanned"]) == 0
    _, _, *rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.strip().splitlines()]
    assert [row[1] for row in rows] == ["image_encoder", "text_encoder", "all"]
    assert all(float(row[-1]) > 0 for row in rows)
    float32, in_int8 = (float(size) for size in rows[0][2].split(", "))
    assert 0 < in_int8 < 2 * float32
    assert not int8_graphs(read_manifest(BUNDLED / "clip-mini")), "the bundle itself is left as it was"
