"""The server's own counts around a benchmark: processor time, model runs and their sizes."""

import re
from dataclasses import dataclass, fields

import httpx

METRICS, TARGETS = "/metrics", "/metrics/targets"
_SERIES = re.compile(r"^(openset_\w+)(?:\{[^}]*\})? ([-+.\deE]+)$", re.MULTILINE)


@dataclass(frozen=True)
class ServerCounts:
    """Sums over all replicas since they started: processor seconds, runs, their images and seconds."""

    cpu_s: float
    runs: float
    images: float
    run_s: float

    @classmethod
    def of(cls, pages: list[str]) -> "ServerCounts":
        """The sums over pages of metrics, one of each replica."""
        sums: dict[str, float] = {}
        for name, value in (found for page in pages for found in _SERIES.findall(page)):
            sums[name] = sums.get(name, 0.0) + float(value)
        return cls(
            sums.get("openset_process_cpu_seconds_total", 0.0) + sums.get("openset_decoder_cpu_seconds_total", 0.0),
            sums.get("openset_executions_total", 0.0),
            sums.get("openset_inferences_total", 0.0),
            sums.get("openset_infer_duration_seconds_sum", 0.0),
        )

    def since(self, before: "ServerCounts") -> "ServerCounts | None":
        """The difference; None where a replica has started anew meanwhile."""
        added = [getattr(self, field.name) - getattr(before, field.name) for field in fields(self)]
        return None if min(added) < 0 else ServerCounts(*added)


async def read_counts(client: httpx.AsyncClient) -> ServerCounts | None:
    """The counts of a server, or of all replicas that a cluster's ingress lists; None where they are not to be had.

    A proxy may keep `/metrics` back, as docker's does, and replicas may be on a network of their own.
    """
    try:
        listed = await client.get(TARGETS)
        if listed.status_code == httpx.codes.OK:
            addresses = [
                f"http://{target['targets'][0]}{target['labels']['__metrics_path__']}" for target in listed.json()
            ]
        else:
            addresses = [METRICS]
        answers = [await client.get(address) for address in addresses]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None
    if any(answer.status_code != httpx.codes.OK for answer in answers):
        return None
    found = ServerCounts.of([answer.text for answer in answers])
    return found if found.cpu_s else None
