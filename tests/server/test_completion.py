"""The completion script, run by bash itself."""

import shutil
import subprocess

import pytest

from server.__main__ import COMMANDS, main


@pytest.fixture
def script(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    file = tmp_path / "openset.bash"
    file.write_text(capsys.readouterr().out)
    return file


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash on this machine")
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["openset", ""], set(COMMANDS)),
        (["openset", "ev"], {"evaluate"}),
        (["openset", "detect", "--box-"], {"--box-threshold", "--box-format"}),
        (["openset", "serve", "--max-q"], {"--max-queue"}),
        (["openset", "detect", "--box-format", "cx"], {"cxcywh", "cxcywhn"}),
    ],
)
def test_bash_completes_commands_options_and_choices(script, words, completed):
    typed = " ".join(f"'{word}'" for word in words)
    lines = [f"source '{script}'", f"COMP_WORDS=({typed})", f"COMP_CWORD={len(words) - 1}"]
    lines += ['function=$(complete -p openset | sed "s/.*-F //; s/ .*//")', '"$function"', 'echo "${COMPREPLY[@]}"']
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True)
    assert completed <= set(done.stdout.split()), done.stderr


def test_zsh_gets_a_script_of_its_own(capsys):
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef openset")
