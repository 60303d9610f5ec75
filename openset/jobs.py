"""Jobs of a server from the client's side: one request to submit, polls, and the answer as of the endpoint."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import PrivateAttr

from openset import endpoints
from openset.endpoints import Task
from openset.errors import ClientError
from openset.images import ImageInputs
from openset.reading import read
from openset.results import ClassifyAnswer, DetectAnswer, EmbedAnswer, Job, SimilarityAnswer
from openset.splitting import Limits
from openset.vision_call import Batch, VisionCall

_ANSWERS: Mapping[str, type[DetectAnswer | ClassifyAnswer | SimilarityAnswer | EmbedAnswer]] = {
    "/detect": DetectAnswer,
    "/classify": ClassifyAnswer,
    "/similarity": SimilarityAnswer,
    "/embed": EmbedAnswer,
}
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 2.0


class SubmittedJob(Job):
    """Job that knows its images, so that problems have their paths, and where its progress is told."""

    _call: VisionCall[Any] = PrivateAttr()
    _batch: Batch = PrivateAttr()

    @classmethod
    def read(cls, response: httpx.Response, call: VisionCall[Any], batch: Batch) -> "SubmittedJob":
        """Read the answer to a submission."""
        job = read(response, cls)
        job._call, job._batch = call, Batch([b""] * len(batch.images), batch.indices)  # not the images
        return job

    def concerning(self) -> AbstractContextManager[None]:
        """Add to an error the image that it is about."""
        return self._call.concerning(self._batch)

    def tell(self, now: Job) -> None:
        """Call the progress with the images that are done."""
        if self._call.progress:
            self._call.progress(now.images_done, now.images)

    def answer(self, response: httpx.Response) -> Any:
        """Read the answer, with a row for images that were not sent too."""
        call = replace(self._call, problems=list(self._call.problems), progress=None, _answers=[])
        call.take(response, self._batch)
        return call.joined()


def job_call(task: Task, images: ImageInputs, options: Mapping[str, Any]) -> VisionCall[Any]:
    """Build the call whose one request a job is."""
    given: Any = dict(options)
    if task == "detect":
        return endpoints.detect_call(images, given)
    if task == "classify":
        return endpoints.classify_call(images, given.pop("labels", ()), given)
    if task == "similarity":
        return endpoints.similarity_call(images, given.pop("texts", ()), given)
    if task == "embed":
        return endpoints.embed_call(images, given.pop("texts", ()), given)
    raise ValueError(f"a task is detect, classify, similarity or embed, got {task!r}")


def only_batch(call: VisionCall[Any], limits: Limits) -> Batch:
    """Encode the images of a job; ClientError where they do not fit into one request."""
    batches = call.batches(Limits(max_body_bytes=limits.max_body_bytes))
    batch = next(batches)
    if next(batches, None) is not None:
        raise ClientError(
            f"these images are more than one job may have (max_body_bytes is {limits.max_body_bytes}), or files and"
            " URLs together: submit several jobs"
        )
    return batch


def path_of(job: Job | str) -> str:
    """Give the path of a job."""
    return f"/jobs/{quote(job if isinstance(job, str) else job.id, safe='')}"


def waits(wait_s: float | None) -> Iterator[float]:
    """Yield seconds between polls, longer each time, `wait_s` in all."""
    wait, left = _FIRST_WAIT_S, float("inf") if wait_s is None else wait_s
    while left > 0:
        yield min(wait, left)
        left -= wait
        wait = min(_LONGEST_WAIT_S, 1.5 * wait)


def tell(job: Job | str, now: Job) -> None:
    """Tell the progress that a job was submitted with."""
    if isinstance(job, SubmittedJob):
        job.tell(now)


def concerning(job: Job | str) -> AbstractContextManager[None]:
    """Add to an error the image that it is about, where the images are known."""
    return job.concerning() if isinstance(job, SubmittedJob) else nullcontext()


def answer_of(job: Job | str, now: Job, response: httpx.Response) -> Any:
    """Read the answer of a job."""
    return job.answer(response) if isinstance(job, SubmittedJob) else read(response, _ANSWERS[now.endpoint])
