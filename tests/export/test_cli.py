import pytest

from server.__main__ import main
from server.bundle import Bundle
from server.contract.manifest import read_manifest


@pytest.fixture(scope="module")
def exported(save_checkpoint, tmp_path_factory):
    return save_checkpoint("clip"), tmp_path_factory.mktemp("out") / "bundle"


def test_export_and_verify_from_the_shell(exported, capsys):
    checkpoint, out = exported
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(out), "--name", "tiny"]) == 0
    told = capsys.readouterr().out
    assert "trace image_encoder: " in told
    assert "peak memory: " in told
    assert told.endswith(f"{out}: tiny, certified\n")
    assert main(["verify", str(out)]) == 0
    assert capsys.readouterr().out.endswith(f"{out}: verified; certified: full\n")


def test_quiet_prints_the_result_only(exported, capsys):
    checkpoint, out = exported
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(out), "--quiet"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(
    "options",
    [("--weights", "int8"), ("--shorter", "32"), ("--opset", "18"), ("--bundle-version", "2", "--longer", "9")],
)
def test_what_a_bundle_is_exported_with_is_not_changed_in_it(copied, capsys, options):
    before = read_manifest(copied)
    assert main(["export", "--out", str(copied), "--precision", "fp32", "--name", "other", *options]) == 2
    named = ", ".join(option for option in options if option.startswith("--"))
    assert f"openset export: {named}: only with a --checkpoint" in capsys.readouterr().err
    assert read_manifest(copied) == before


def test_bundle_is_served_by_another_name_beside_the_one_it_was_copied_from(copied, capsys):
    assert main(["export", "--out", str(copied), "--name", "Other one", "--quiet"]) == 0
    assert capsys.readouterr().out == f"{copied}: other-one, certified\n"
    assert main(["verify", str(copied)]) == 0
    assert Bundle(copied).manifest.name == "other-one"


def test_checkpoint_that_is_not_there_is_an_error_in_one_line(tmp_path, capsys):
    assert main(["export", "--checkpoint", str(tmp_path / "none.pth"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "none.pth does not exist" in error
    assert "Traceback" not in error


def test_bundle_with_a_fault_exits_with_one(copied, capsys):
    (copied / "tokenizer.json").write_text("{}")
    assert main(["verify", str(copied)]) == 1
    assert "FAILED" in capsys.readouterr().err


def test_folder_that_is_no_bundle_exits_with_two(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert "no manifest.json" in capsys.readouterr().err
