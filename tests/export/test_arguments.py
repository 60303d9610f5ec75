"""Arguments of `export`, `pull`, `verify` and `models`."""

from pathlib import Path

import pytest

from export.onnx import tracing
from server.__main__ import make_parser


def parse(*words):
    return make_parser(words[0]).parse_args(words)


def test_export_writes_a_plain_graph_unless_told_otherwise(capsys):
    args = parse("export", "--checkpoint", "c", "--out", "b")
    assert args.runtime == "onnxruntime"
    assert {args.weights, args.precision, args.lowering, args.opset, args.bundle_version} == {None}, (
        "the function's own"
    )
    with pytest.raises(SystemExit):
        parse("export", "--help")
    told = " ".join(capsys.readouterr().out.split())
    assert f"16 to 19 (default: {tracing.DEFAULT_OPSET})" in told
    assert f"(default: {tracing.DEFAULT_LOWERING})" in told
    with pytest.raises(SystemExit):
        parse("export", "--checkpoint", "c")


@pytest.mark.parametrize("words", [["pull", "clip", "--cache-dir", "c"], ["models", "--cache-dir", "c"]])
def test_folder_of_pulled_models_may_be_named(words):
    assert parse(*words).cache_dir == Path("c")


def test_bundle_is_verified_with_or_without_its_checkpoint():
    assert parse("verify", "b", "--quiet").checkpoint is None
    assert parse("verify", "b", "--checkpoint", "c").checkpoint == Path("c")
