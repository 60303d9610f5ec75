"""Metrics: the series of one app, of its models and of its pools."""

import re

import numpy as np

from server.errors import KINDS, ClientGone, DeadlinePassed, InferenceFailed, MemoryExhausted, QueueFull, UnknownModel
from server.memory.allocators import HostAllocator
from server.memory.pool import BufferPool
from server.telemetry.metrics import Metrics, package_version


def samples(metrics):
    lines = metrics.exposition().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def test_every_series_of_ours_has_the_prefix_and_a_help_text():
    text = Metrics().exposition().decode()
    names = re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE)
    assert names == re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)
    assert all(name.startswith("openset_") for name in names)


def test_apps_do_not_share_their_metrics():
    first, second = Metrics(), Metrics()
    first.ready.set(1)
    assert (samples(first)["openset_ready"], samples(second)["openset_ready"]) == (1, 0)


def test_metrics_of_a_model_carry_its_name_and_go_with_it():
    metrics = Metrics()
    for model in ("clip", "glip"):
        metrics.of(model).inferences.inc(3)
        metrics.certificate_valid.labels(model, "detector").set(1)
    assert samples(metrics)['openset_inferences_total{model="clip"}'] == 3
    metrics.forget("clip", ["detector"])
    assert not [name for name in samples(metrics) if 'model="clip"' in name]
    assert samples(metrics)['openset_inferences_total{model="glip"}'] == 3
    metrics.forget_parts("glip", ["detector"])
    assert 'openset_certificate_valid{model="glip",part="detector"}' not in samples(metrics)


def test_pool_is_read_at_each_scrape():
    metrics, pool = Metrics(), BufferPool(HostAllocator(), cap=2**20)
    metrics.watch(pool)
    with pool.lease((1000,), dtype=np.float64, owner="test"):
        assert samples(metrics)[f'openset_pool_in_use_bytes{{pool="{pool.name}"}}'] >= 8000
    assert samples(metrics)[f'openset_pool_in_use_bytes{{pool="{pool.name}"}}'] == 0
    assert samples(metrics)[f'openset_pool_high_water_bytes{{pool="{pool.name}"}}'] >= 8000


def test_processor_time_of_decoders_is_read_at_each_scrape():
    metrics, seconds = Metrics(), iter([1.5, 2.5])
    metrics.watch_decoders(lambda: next(seconds))
    assert b"openset_decoder_cpu_seconds_total 1.5" in metrics.exposition()
    assert b"openset_decoder_cpu_seconds_total 2.5" in metrics.exposition()


def test_refusals_are_counted_by_kind_and_failures_are_not():
    metrics = Metrics()
    for error in (QueueFull, QueueFull, UnknownModel, MemoryExhausted, ClientGone, DeadlinePassed, InferenceFailed):
        metrics.reject(KINDS[error])
    rejected = {name: value for name, value in samples(metrics).items() if name.startswith("openset_rejected")}
    assert rejected == {
        'openset_rejected_total{reason="queue-full"}': 2,
        'openset_rejected_total{reason="unknown-model"}': 1,
        'openset_rejected_total{reason="memory-exhausted"}': 1,
    }


def test_version_of_a_package_that_is_not_installed_is_unknown():
    assert package_version("no-such-package") == "unknown"
    assert re.match(r"\d+\.", package_version("numpy"))
