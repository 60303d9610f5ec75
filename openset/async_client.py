"""`AsyncClient`: the client of an Openset server for asyncio."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, Unpack

import httpx
from tenacity import AsyncRetrying

from openset import endpoints, jobs, proxies
from openset.endpoints import Task, Texts
from openset.errors import ClientError, no_answer, problem_error
from openset.images import ImageInputs
from openset.reading import is_ready, read
from openset.results import ClassifyAnswer, DetectAnswer, EmbedAnswer, Job, JobsAnswer, ModelsAnswer, SimilarityAnswer
from openset.retries import Retries
from openset.splitting import Limits
from openset.vision_call import VisionAnswer, VisionCall


class AsyncClient:
    """`Client` for asyncio: the same arguments and methods, to be awaited; tasks may share one.

    Files are read, and pixels compressed, in a worker thread.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float | httpx.Timeout | None = endpoints.TIMEOUT_S,
        retries: Retries | int = endpoints.RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._retries = Retries.of(retries)
        self._limits: Limits | None = None
        address = endpoints.base_url(url)
        self._proxy = "" if transport else proxies.note(url)
        with proxies.explained(url):
            options = proxies.options_for(address, transport)
            self._http = httpx.AsyncClient(
                base_url=address, headers=endpoints.headers(api_key), timeout=timeout, **options
            )

    async def detect(self, images: ImageInputs, **options: Unpack[endpoints.DetectOptions]) -> DetectAnswer:
        """As `Client.detect`."""
        return await self._ask(endpoints.detect_call(images, options))

    async def classify(
        self, images: ImageInputs, labels: Texts, **options: Unpack[endpoints.ClassifyOptions]
    ) -> ClassifyAnswer:
        """As `Client.classify`."""
        return await self._ask(endpoints.classify_call(images, labels, options))

    async def similarity(
        self, images: ImageInputs, texts: Texts, **options: Unpack[endpoints.SimilarityOptions]
    ) -> SimilarityAnswer:
        """As `Client.similarity`."""
        return await self._ask(endpoints.similarity_call(images, texts, options))

    async def embed(
        self, images: ImageInputs = (), texts: Texts = (), **options: Unpack[endpoints.CallOptions]
    ) -> EmbedAnswer:
        """As `Client.embed`."""
        return await self._ask(endpoints.embed_call(images, texts, options))

    async def each(
        self, requests: Iterable[Mapping[str, Any]], *, task: Task = "detect", parallel: int = 4
    ) -> AsyncIterator[DetectAnswer | ClassifyAnswer | SimilarityAnswer | EmbedAnswer | ClientError]:
        """As `Client.each`."""
        method = getattr(self, task)
        pending: deque[asyncio.Task[Any]] = deque()

        async def ask(request: Mapping[str, Any]) -> Any:
            try:
                return await method(**request)
            except ClientError as error:
                return error

        try:
            for request in requests:
                pending.append(asyncio.create_task(ask(request)))
                if len(pending) == parallel:
                    yield await pending.popleft()
            while pending:
                yield await pending.popleft()
        finally:
            for task_left in pending:
                task_left.cancel()

    async def submit(self, images: ImageInputs = (), *, task: Task = "detect", **options: Any) -> Job:
        """As `Client.submit`."""
        call = jobs.job_call(task, images, options)
        if self._limits is None:
            self._limits = read(await self._send("GET", "/models"), endpoints.LimitsAnswer).limits
        batch = await asyncio.to_thread(jobs.only_batch, call, self._limits)
        with call.concerning(batch):
            response = await self._send("POST", f"/jobs{call.path}", **call.content(batch))
            return jobs.SubmittedJob.read(response, call, batch)

    async def job(self, job: Job | str) -> Job:
        """As `Client.job`."""
        return read(await self._send("GET", jobs.path_of(job)), Job)

    async def jobs(self) -> list[Job]:
        """As `Client.jobs`."""
        return read(await self._send("GET", "/jobs"), JobsAnswer).jobs

    async def result(self, job: Job | str, *, wait_s: float | None = None) -> Any:
        """As `Client.result`."""
        now = await self.job(job)
        for wait in jobs.waits(wait_s):
            jobs.tell(job, now)
            if now.ended:
                break
            await asyncio.sleep(wait)
            now = await self.job(job)
        with jobs.concerning(job):
            return jobs.answer_of(job, now, await self._send("GET", f"{jobs.path_of(job)}/result"))

    async def cancel(self, job: Job | str) -> None:
        """As `Client.cancel`."""
        response = await self._send("DELETE", jobs.path_of(job))
        if not response.is_success:
            raise problem_error(response)

    async def models(self) -> ModelsAnswer:
        """As `Client.models`."""
        return read(await self._send("GET", "/models"), ModelsAnswer)

    async def ready(self) -> bool:
        """As `Client.ready`."""
        try:
            return is_ready(await self._http.get("/readyz"))
        except httpx.RequestError:
            return False

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()

    async def _ask(self, call: VisionCall[VisionAnswer]) -> VisionAnswer:
        if len(call.images) > 1 and self._limits is None:
            self._limits = read(await self._send("GET", "/models"), endpoints.LimitsAnswer).limits
        batches = call.batches(self._limits or Limits())
        while batch := await asyncio.to_thread(next, batches, None):
            with call.concerning(batch):
                call.take(await self._send("POST", call.path, **call.content(batch)), batch)
        return call.joined()

    async def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        attempts = AsyncRetrying(**self._retries.policy())
        try:
            return await attempts(self._http.send, self._http.build_request(method, path, **content))
        except httpx.RequestError as error:
            raise no_answer(error, attempts.statistics["attempt_number"], self._proxy) from error
