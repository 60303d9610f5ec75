"""The systemd unit."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from server.settings import Settings

UNIT = Path(__file__).parents[2] / "docker/systemd/openset.service"


@pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="there is no systemd-analyze on the path (Debian: systemd)"
)
def test_systemd_reads_the_unit(tmp_path):
    program = tmp_path / "openset"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/openset/bin/openset", str(program)))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("Restart=on-failure", "Restart=on-fire"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert "on-fire" in done.stderr


def test_stopping_takes_longer_than_the_server_needs():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(UNIT)
    assert int(unit["Service"]["TimeoutStopSec"]) > Settings.model_fields["shutdown_timeout_s"].default + 10


def test_commands_of_its_head_name_what_is_there_from_the_root_of_the_repository():
    head = UNIT.read_text().partition("[Unit]")[0].split()
    assert "'.[cpu]'" in head, "the package is on no index"
    copied = Path(head[head.index("cp") + 1])
    assert (UNIT.parents[2] / copied).samefile(UNIT)
