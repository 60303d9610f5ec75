"""Settings from flags, environment and file; a wrong value is refused with the value and what is accepted."""

import argparse
import os
import re
from pathlib import Path
from typing import get_args

import pytest

from server.__main__ import main
from server.settings import (
    ImageFormat,
    Settings,
    SettingsError,
    add_flags,
    markdown_table,
    odd_variables,
    read_settings,
    readable_formats,
)


def test_environment_sets_a_value(monkeypatch):
    monkeypatch.setenv("OPENSET_MAX_QUEUE", "17")
    assert read_settings().max_queue == 17


def test_flag_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("OPENSET_MAX_QUEUE", "17")
    assert read_settings(max_queue=18).max_queue == 18


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "openset.toml"
    path.write_text(
        'max_queue = 19\nmax_batch = 3\nbundle = ["/a", "/b"]\nlog_level = "error"\n'
        'warm_up = "none"\nmax_wait_ms = 0.5\n',
        encoding="utf-8",
    )
    return path


def test_file_sets_values_of_every_kind(file):
    read = read_settings(file)
    assert (read.max_queue, read.bundle, read.log_level) == (19, (Path("/a"), Path("/b")), "error")
    assert (read.warm_up, read.max_wait_ms, read.max_images) == ("none", 0.5, 16)


@pytest.mark.parametrize("variable", ["OPENSET_MAX_QUEUE", "openset_max_queue"])
def test_flag_goes_before_environment_before_file_before_default(monkeypatch, file, variable):
    monkeypatch.setenv(variable, "17")
    read = read_settings(file, port="1")
    assert (read.max_queue, read.max_batch, read.port, read.max_labels) == (17, 3, 1, 1000)
    assert read_settings(file, max_queue="18").max_queue == 18


def test_environment_may_name_the_file(monkeypatch, file):
    monkeypatch.setenv("OPENSET_CONFIG", str(file))
    assert read_settings().max_queue == 19


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("max_queue = 0", "openset.toml: max_queue=0 is refused: input should be greater than or equal to 1. Images"),
        ('port = "http"', "openset.toml: port='http' is refused: input should be a valid integer"),
        ("max_queu = 7", "openset.toml: max_queu: there is no setting 'max_queu'; the settings are host, port"),
        ("[server]\nport = 1", "openset.toml: server: there is no setting 'server'"),
        ("max_queue: 7", "openset.toml is not TOML: Expected '='"),
        pytest.param("max_queue = " + "[" * 100_000, "openset.toml is not TOML: maximum recursion", id="nested"),
        pytest.param("max_queue = " + "7" * 5000, "openset.toml is not TOML: Exceeds the limit", id="digits"),
        ("cors_origins = [7]", "openset.toml: cors_origins=[7] is refused: input should be a valid string"),
    ],
)
def test_wrong_value_in_a_file_is_named_with_the_file(file, text, reason):
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as refusal:
        read_settings(file)
    assert reason in str(refusal.value)


def test_file_may_begin_with_a_byte_order_mark(file):
    file.write_text("max_queue = 17", encoding="utf-8-sig")
    assert read_settings(file).max_queue == 17


def test_value_that_a_flag_replaces_may_be_wrong(file):
    file.write_text("max_queue = 0", encoding="utf-8")
    assert read_settings(file, max_queue="18").max_queue == 18


def test_missing_file_is_one_sentence(tmp_path, capsys):
    assert main(["serve", "--config", str(tmp_path / "none.toml")]) == 2
    assert capsys.readouterr().err == (
        f"openset serve: the settings file {tmp_path}/none.toml cannot be read: No such file or directory\n"
    )


def test_bundles_in_the_environment_are_separated_like_path(monkeypatch):
    monkeypatch.setenv("OPENSET_BUNDLE", os.pathsep.join(["/a", "/b"]))
    assert read_settings().bundle == (Path("/a"), Path("/b"))


def test_words_are_separated_by_commas_or_repeated(monkeypatch):
    monkeypatch.setenv("OPENSET_OPEN_ENDPOINTS", "/livez, /docs,")
    assert read_settings().open_endpoints == ("/livez", "/docs")
    assert read_settings(open_endpoints=["/", "/v2,/models"]).open_endpoints == ("/", "/v2", "/models")


@pytest.mark.parametrize(
    ("variable", "value", "accepted"),
    [
        ("OPENSET_PORT", "99999", "less than or equal to 65535"),
        ("OPENSET_PORT", "http", "valid integer"),
        ("OPENSET_LOG_LEVEL", "loud", "'debug', 'info'"),
        ("OPENSET_OPEN_ENDPOINTS", "/livez,/detect", "'/livez', '/readyz', '/metrics'"),
        ("OPENSET_CORS_ORIGINS", "app.example", "'app.example' is no origin: give scheme and host"),
        ("OPENSET_CORS_ORIGINS", "https://app.example/", "is no origin"),
        ("OPENSET_MAX_WAIT_MS", "-1", "greater than or equal to 0"),
        ("OPENSET_BUNDLE_ROOTS", "/no/such/folder", "/no/such/folder is not a folder"),
        ("OPENSET_OTLP_ENDPOINT", "localhost:4318", "this is no address like http://localhost:4318"),
        ("OPENSET_OTLP_ENDPOINT", "http://user@collector", "credentials go into OTEL_EXPORTER_OTLP_HEADERS"),
        ("OPENSET_WARM_UP", "smallest", "'auto', 'largest' or 'none'"),
        ("OPENSET_WARM_UP", "false", "'auto', 'largest' or 'none'"),
        ("OPENSET_POOL_BYTES", "-1", "greater than or equal to 0"),
        ("OPENSET_MEMORY_LIMIT_BYTES", "half", "valid integer"),
    ],
)
def test_wrong_value_is_named_with_what_is_accepted(monkeypatch, variable, value, accepted):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refusal:
        read_settings()
    assert f"{variable}='{value}'" in str(refusal.value)
    assert accepted in str(refusal.value)


def test_wrong_flag_is_named_as_a_flag():
    with pytest.raises(SettingsError, match="--max-batch='0' is refused"):
        read_settings(max_batch="0")


def test_unknown_setting_is_refused():
    with pytest.raises(SettingsError, match="--colour: there is no setting 'colour'; the settings are host"):
        read_settings(colour="blue")


@pytest.mark.parametrize(
    ("variable", "warning"),
    [
        ("OPENSET_MAX_QUEU", "OPENSET_MAX_QUEU names no setting; OPENSET_MAX_QUEUE does"),
        ("OPENSET_COLOUR", "OPENSET_COLOUR names no setting"),
    ],
)
def test_variable_that_names_no_setting_is_warned_of(monkeypatch, variable, warning):
    monkeypatch.setenv(variable, "17")
    assert read_settings() == Settings()
    assert odd_variables() == [warning]


@pytest.mark.parametrize(
    "variable",
    ["API_KEY", "BUNDLES", "SERVICE_HOST", "SERVICE_PORT_HTTP", "PORT_8000_TCP_ADDR", "GPU_SERVICE_HOST", "GPU_PORT"],
)
def test_variables_of_the_client_of_compose_and_of_kubernetes_are_no_settings(monkeypatch, variable):
    monkeypatch.setenv(f"OPENSET_{variable}", "x")
    assert read_settings() == Settings()


def test_queue_smaller_than_a_request_is_refused():
    with pytest.raises(SettingsError, match="max_queue must be at least max_images"):
        read_settings(max_images=8, max_queue=4)


def test_bundles_that_may_be_changed_need_keys(tmp_path):
    with pytest.raises(SettingsError, match="bundle_roots without api_keys_file: anyone who reaches the server"):
        read_settings(bundle_roots=[tmp_path])
    (tmp_path / "link").symlink_to(tmp_path)
    read = read_settings(bundle_roots=f"{tmp_path}/link{os.pathsep}{tmp_path}", api_keys_file="keys.txt")
    assert read.bundle_roots == (tmp_path.resolve(),) * 2


def test_table_has_every_setting_with_its_default_and_purpose():
    rows = [line.split(" | ") for line in markdown_table().splitlines()[2:]]
    assert [name for name, *_ in rows] == [f"| `{name}`" for name in Settings.model_fields]
    assert all(len(purpose) > 20 for _, _, purpose in rows)
    assert ["| `port`", "8000", "Port to listen on; 0 picks a free one. |"] in rows


def test_every_setting_is_a_flag_of_serve():
    parser = argparse.ArgumentParser()
    add_flags(parser)
    flags = {"--" + name.replace("_", "-") for name in Settings.model_fields}
    assert flags <= set(parser._option_string_actions)
    args = parser.parse_args(["--bundle", "/a", "--bundle", "/b", "--no-page", "--port", "1"])
    assert args.bundle == ["/a", "/b"]
    assert args.page is False
    assert "host" not in args, "a flag that was not given leaves the environment in force"


def test_threads_default_to_what_the_process_may_use():
    assert Settings().run_threads >= 1
    assert Settings(threads=3).run_threads == 3


@pytest.mark.parametrize("value", ["tcp://10.96.13.7:8000", "udp://[fd00::7]:8000", "tcp://10.96.13.7:80"])
def test_port_that_kubernetes_makes_of_a_service_is_ignored_with_a_word(monkeypatch, file, value):
    monkeypatch.setenv("OPENSET_PORT", value)
    file.write_text("port = 9000", encoding="utf-8")
    assert (read_settings().port, read_settings(file).port, read_settings(port="9001").port) == (8000, 9000, 9001)
    (sentence,) = odd_variables()
    assert sentence.startswith(f"OPENSET_PORT={value} is Kubernetes' variable of a Service")
    assert "enableServiceLinks: false" in sentence


def test_all_that_kubernetes_makes_of_a_service_called_openset_stops_nothing(monkeypatch):
    address = "tcp://10.96.13.7:8000"
    for name, value in {
        "SERVICE_HOST": "10.96.13.7", "SERVICE_PORT": "8000", "SERVICE_PORT_HTTP": "8000", "PORT": address,
        "PORT_8000_TCP": address, "PORT_8000_TCP_PROTO": "tcp", "PORT_8000_TCP_PORT": "8000",
        "PORT_8000_TCP_ADDR": "10.96.13.7", "PROXY_PORT": address, "PROXY_SERVICE_PORT": "80",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"OPENSET_{name}", value)
    assert read_settings() == Settings()
    assert [sentence.split("=")[0] for sentence in odd_variables()] == ["OPENSET_PORT"]


@pytest.mark.parametrize(("given", "port"), [("tcp://10.96.13.7:8000", 8000), ("9000", 9000), ("", 8000)])
def test_health_check_of_the_image_takes_the_port_as_the_server_does(monkeypatch, given, port):
    dockerfile = (Path(__file__).parents[2] / "docker/Dockerfile.server").read_text(encoding="utf-8")
    (code,) = re.findall(r'CMD \["python3", "-c", "(.*?)"\]', dockerfile.replace("\\\n", ""), re.DOTALL)
    asked = []

    class Connection:
        status = 200

        def __init__(self, host, port, timeout):
            asked.append((host, port))

        def request(self, method, path):
            assert (method, path) == ("GET", "/readyz")

        def getresponse(self):
            return self

    monkeypatch.setenv("OPENSET_PORT", given)
    monkeypatch.setattr("http.client.HTTPConnection", Connection)
    with pytest.raises(SystemExit) as ended:
        exec(code)
    assert (ended.value.code, asked) == (0, [("127.0.0.1", port)])


def test_compose_passes_every_setting_on_but_the_address():
    compose = (Path(__file__).parents[2] / "compose.yaml").read_text(encoding="utf-8")
    server = compose.partition("x-server:")[2].partition("x-pip:")[0]
    passed = {name.lower() for name in re.findall(r"^    OPENSET_(\w+):", server, re.MULTILINE)}
    assert passed == Settings.model_fields.keys() - {"host", "port"}


def test_defaults_of_a_caller_yield_to_the_file_the_environment_and_flags(tmp_path, monkeypatch):
    assert read_settings(defaults={"max_labels": 7}).max_labels == 7
    (tmp_path / "openset.toml").write_text("max_labels = 8")
    assert read_settings(tmp_path / "openset.toml", defaults={"max_labels": 7}).max_labels == 8
    monkeypatch.setenv("OPENSET_MAX_LABELS", "9")
    assert read_settings(tmp_path / "openset.toml", defaults={"max_labels": 7}).max_labels == 9
    assert read_settings(defaults={"max_labels": 7}, max_labels=10).max_labels == 10


def test_readable_formats_are_accepted_as_a_setting():
    assert set(get_args(ImageFormat)[:6]) <= set(readable_formats()) <= set(get_args(ImageFormat))
    assert Settings(image_formats=readable_formats()).image_formats == readable_formats()
