"""Arguments of `openset cluster`."""

import pytest

from server.__main__ import make_parser


def parse(*words):
    return make_parser("cluster").parse_args(["cluster", *words])


def test_number_of_replicas_may_be_a_range():
    assert parse("up", "--replicas", "3").replicas == (3, 3)
    assert parse("config", "--replicas", "2-8").replicas == (2, 8)
    assert parse("up").replicas == (1, 1)


def test_settings_are_the_flags_of_serve():
    args = parse("up", "--port", "81", "--max-queue", "9", "--address", "http://head:8265")
    assert (args.port, args.max_queue, args.address) == ("81", "9", "http://head:8265")


@pytest.mark.parametrize(("text", "size"), [("512MiB", 512 * 2**20), ("4GiB", 4 * 2**30), ("1000", 1000)])
def test_memory_is_given_in_bytes_or_by_its_unit(text, size):
    assert parse("up", "--memory", text).memory == size


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("--replicas", value) for value in ("0", "4-2", "-1", "two", "1-")),
        *(("--cpus", value) for value in ("0", "-1", "nan", "1e3")),
        *(("--gpus", value) for value in ("1.5", "-1", "inf")),
        *(("--memory", value) for value in ("0", "4GB", "-1", "4 GiB")),
        *(("--route-prefix", value) for value in ("vision", "/-", "/-/healthz", "/a/", "/a b", "/{x}", "")),
    ],
)
def test_value_that_is_none_is_refused_with_what_is_accepted(flag, value, capsys):
    with pytest.raises(SystemExit):
        parse("up", f"{flag}={value}")
    assert f"argument {flag}: {value!r} is n" in capsys.readouterr().err
