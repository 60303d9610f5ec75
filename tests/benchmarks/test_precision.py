"""The table of precisions: one row each, with the figures of its certificate."""

from server.registry.model_cache import BUNDLED
from tests.benchmarks import precision


def test_every_precision_of_a_bundled_model_has_its_row(capsys):
    assert precision.main([str(BUNDLED / "clip-mini")]) == 0
    header, _, *rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.strip().splitlines()]
    assert header == ["clip-mini", "image cosine", "text cosine", "score drift", "same label", "certificate"]
    drift = {row[0]: float(row[3]) for row in rows}
    assert list(drift) == ["fp32", "fp16", "bf16", "mixed"]
    assert drift["fp32"] < drift["mixed"] < drift["bf16"], "each coarser rounding shows"
    assert [row[-1] for row in rows if row[0] in ("fp32", "mixed")] == ["passes"] * 2
