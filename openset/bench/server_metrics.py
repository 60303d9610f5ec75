"""Facts that a server tells besides its answers: processor time so far, and the images that it runs together."""

import re

import httpx

from openset.bench.traffic import bounded

# What reading a document raises that is none of ours, or nested without end.
NO_DOCUMENT = (LookupError, TypeError, ValueError, RecursionError)
METRICS, TARGETS, MODELS = "/metrics", "/metrics/targets", "/models"
_MOST_TARGETS, _MOST_IMAGES = 1000, 4096
_CPU = re.compile(
    r"^openset_(?:process|decoder)_cpu_seconds_total(?:\{[^}]*\})? (\d[\d.]{,30}(?:e[+-]?\d\d?)?)$", re.MULTILINE
)


async def read_cpu_s(client: httpx.AsyncClient) -> float | None:
    """Processor seconds of a server, or of all replicas that a cluster's ingress lists; None if they cannot be had.

    A proxy may keep `/metrics` back, as docker's does, and replicas may be on a network of their own.
    """
    try:
        listed = await _get(client, TARGETS)
        if listed.status_code == httpx.codes.OK:
            addresses = [
                f"http://{target['targets'][0]}{target['labels']['__metrics_path__']}"
                for target in listed.json()[:_MOST_TARGETS]
            ]
        else:
            addresses = [METRICS]
        answers = [await _get(client, address) for address in addresses]
        seconds = [float(found) for answer in answers for found in _CPU.findall(answer.text)]
    except (httpx.HTTPError, httpx.InvalidURL, *NO_DOCUMENT):
        return None
    return sum(seconds) if seconds and all(answer.status_code == httpx.codes.OK for answer in answers) else None


async def read_max_batch(client: httpx.AsyncClient, model: str) -> int | None:
    """The most images that `model` runs together; None where the server does not tell."""
    try:
        listed = (await _get(client, MODELS)).json()["models"]
        most = next(each["limits"]["max_batch"] for each in listed if each["name"] == model)
    except (httpx.HTTPError, *NO_DOCUMENT, StopIteration):
        return None
    return most if isinstance(most, int) and 1 <= most <= _MOST_IMAGES else None


async def _get(client: httpx.AsyncClient, address: str) -> httpx.Response:
    return await bounded(client, client.build_request("GET", address))
