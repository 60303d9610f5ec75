"""Actors of a Ray cluster: processes with CPUs or a share of a GPU each, for work that is no request."""

from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from server.cluster.cli import ClusterError
from server.cluster.resources import CPU, GPU, within
from server.settings import Settings

_GPU_UNIT = 10_000  # Ray counts shares by so many


class ActorEnded(Exception):
    """An actor's process, or its node, has ended; the message says how."""


class Actor:
    """An object of a class that every node can import, in a process of the cluster; threads may share it.

    Calls are worked at `parallel` at a time. What it lost with its process is told of, and not tried again.
    """

    def __init__(self, kind: type, *given: Any, resources: dict[str, float], parallel: int) -> None:
        options: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": parallel}
        options |= {"num_cpus": resources[CPU], "num_gpus": resources[GPU]}
        self._handle = ray.remote(kind).options(**options).remote(*given)

    def call(self, method: str, *given: Any) -> Any:
        """The result of a method, or its own exception; ActorEnded."""
        try:
            return ray.get(getattr(self._handle, method).remote(*given))
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            # Ids of Ray's stand between the first line and the cause.
            lines = [line.strip() for line in str(error).splitlines() if line.strip() and "\t" not in line] or [""]
            told = " ".join(dict.fromkeys((lines[0], lines[-1])))
            raise ActorEnded(f"{type(error).__name__}: {told}") from None

    def stop(self) -> None:
        """End the process; one that still started when the cluster was left has ended with that."""
        if ray.is_initialized():  # else Ray would join a cluster anew for it
            ray.kill(self._handle)


def connect(address: str) -> None:
    """Join the cluster at `address` (`auto`, `HOST:6379`, or `local` for a new one here); ClusterError if none is.

    RAY_AUTH_MODE must be the cluster's: with a token for a cluster that has none, Ray ends each actor at once.
    """
    try:
        ray.init(address, log_to_driver=False, logging_level="error")
    except Exception as error:  # Ray raises many types
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ClusterError(f"no Ray cluster can be joined at {address}: {lines[0]}") from None


def disconnect() -> None:
    """Leave the cluster, which ends where it was `local`."""
    ray.shutdown()


def plan(count: int | None) -> tuple[int, dict[str, float]]:
    """Number of actors, and the resources of each: `count`, else one a GPU, or one a CPU where there is no GPU.

    More actors than GPUs share them evenly.
    """
    there = ray.cluster_resources()
    gpus = there.get(GPU, 0)
    count = count or max(1, int(gpus or there.get(CPU, 0)))
    return count, {CPU: 1, GPU: min(1.0, int(_GPU_UNIT * gpus / count) / _GPU_UNIT)}


def within_actor(settings: Settings) -> Settings:
    """`settings` for the actor that this process is."""
    return within(ray.get_runtime_context().get_assigned_resources(), settings)
