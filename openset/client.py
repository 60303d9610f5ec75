"""`Client`: a blocking client of an Openset server."""

import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, Unpack

import httpx
from tenacity import Retrying

from openset import endpoints, jobs, proxies
from openset.endpoints import Task, Texts
from openset.errors import ClientError, no_answer, problem_error
from openset.images import ImageInputs
from openset.ordered_map import map_in_order
from openset.reading import is_ready, read
from openset.results import ClassifyAnswer, DetectAnswer, EmbedAnswer, Job, JobsAnswer, ModelsAnswer, SimilarityAnswer
from openset.retries import Retries
from openset.splitting import Limits
from openset.vision_call import VisionAnswer, VisionCall


class Client:
    """Client that waits for answers; threads may share one.

    `timeout` is for each wait on the network, as httpx takes it; `retries` bound the attempts where the server is busy
    or cannot be reached (a number: so many after the first). `transport` replaces httpx's own.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float | httpx.Timeout | None = endpoints.TIMEOUT_S,
        retries: Retries | int = endpoints.RETRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._retries = Retries.of(retries)
        self._limits: Limits | None = None
        address = endpoints.base_url(url)
        self._proxy = "" if transport else proxies.note(url)
        with proxies.explained(url):
            options = proxies.options_for(address, transport)
            self._http = httpx.Client(base_url=address, headers=endpoints.headers(api_key), timeout=timeout, **options)

    def detect(self, images: ImageInputs, **options: Unpack[endpoints.DetectOptions]) -> DetectAnswer:
        """Find what `labels` or a `prompt` name, in one image or several; see `DetectOptions`.

        Of several images one that cannot be read is named by its path, and with `on_error="skip"` only it has no
        result; `progress` is called with the number of images done, and of all.
        """
        return self._ask(endpoints.detect_call(images, options))

    def classify(
        self, images: ImageInputs, labels: Texts, **options: Unpack[endpoints.ClassifyOptions]
    ) -> ClassifyAnswer:
        """Score each image for each label, best first. Options: `model`, `templates`, `multi_label`, `top_k`."""
        return self._ask(endpoints.classify_call(images, labels, options))

    def similarity(
        self, images: ImageInputs, texts: Texts, **options: Unpack[endpoints.SimilarityOptions]
    ) -> SimilarityAnswer:
        """Cosine of each image (rows) with each text (columns). Options: `model`, `embeddings`."""
        return self._ask(endpoints.similarity_call(images, texts, options))

    def embed(
        self, images: ImageInputs = (), texts: Texts = (), **options: Unpack[endpoints.CallOptions]
    ) -> EmbedAnswer:
        """Unit-length embeddings of images, texts, or both, in one space: a dot product is a cosine."""
        return self._ask(endpoints.embed_call(images, texts, options))

    def each(
        self, requests: Iterable[Mapping[str, Any]], *, task: Task = "detect", parallel: int = 4
    ) -> Iterator[DetectAnswer | ClassifyAnswer | SimilarityAnswer | EmbedAnswer | ClientError]:
        """Yield for each request its answer, or the error that kept it from one, in order.

        A request holds the arguments of the task's method: `{"images": path, "labels": ["a dog"]}`. Requests are read
        as answers are taken, `parallel` ahead, which the server runs together.
        """
        method = getattr(self, task)

        def ask(request: Mapping[str, Any]) -> Any:
            try:
                return method(**request)
            except ClientError as error:
                return error

        return (answer for _, answer in map_in_order(ask, requests, parallel=parallel))

    def submit(self, images: ImageInputs = (), *, task: Task = "detect", **options: Any) -> Job:
        """Submit a job: the server answers at once, and works on more images than one request may have.

        Arguments of the task's method: `submit(paths, task="detect", labels=["a dog"])`; all go in one request.
        """
        call = jobs.job_call(task, images, options)
        if self._limits is None:
            self._limits = read(self._send("GET", "/models"), endpoints.LimitsAnswer).limits
        batch = jobs.only_batch(call, self._limits)
        with call.concerning(batch):
            response = self._send("POST", f"/jobs{call.path}", **call.content(batch))
            return jobs.SubmittedJob.read(response, call, batch)

    def job(self, job: Job | str) -> Job:
        """Tell how far a job has come, by itself or its id; ProblemError 404 once it is forgotten."""
        return read(self._send("GET", jobs.path_of(job)), Job)

    def jobs(self) -> list[Job]:
        """List the jobs of this key, or without keys of this address, oldest first."""
        return read(self._send("GET", "/jobs"), JobsAnswer).jobs

    def result(self, job: Job | str, *, wait_s: float | None = None) -> Any:
        """Wait for the answer of a job, at most `wait_s` seconds, and return it as its task's method would.

        ProblemError where the job failed, or has not ended (`urn:openset:problem:job-unfinished`).
        """
        now = self.job(job)
        for wait in jobs.waits(wait_s):
            jobs.tell(job, now)
            if now.ended:
                break
            time.sleep(wait)
            now = self.job(job)
        with jobs.concerning(job):
            return jobs.answer_of(job, now, self._send("GET", f"{jobs.path_of(job)}/result"))

    def cancel(self, job: Job | str) -> None:
        """End a job and forget its answer."""
        response = self._send("DELETE", jobs.path_of(job))
        if not response.is_success:
            raise problem_error(response)

    def models(self) -> ModelsAnswer:
        """List the models being served, their certificates, and what the server takes in one request."""
        return read(self._send("GET", "/models"), ModelsAnswer)

    def ready(self) -> bool:
        """Tell whether the server is ready; not tried again."""
        try:
            return is_ready(self._http.get("/readyz"))
        except httpx.RequestError:
            return False

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _ask(self, call: VisionCall[VisionAnswer]) -> VisionAnswer:
        if len(call.images) > 1 and self._limits is None:
            self._limits = read(self._send("GET", "/models"), endpoints.LimitsAnswer).limits
        for batch in call.batches(self._limits or Limits()):
            with call.concerning(batch):
                call.take(self._send("POST", call.path, **call.content(batch)), batch)
        return call.joined()

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        attempts = Retrying(**self._retries.policy())
        try:
            return attempts(self._http.send, self._http.build_request(method, path, **content))
        except httpx.RequestError as error:
            raise no_answer(error, attempts.statistics["attempt_number"], self._proxy) from error
