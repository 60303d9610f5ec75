"""Jobs of a server: requests whose answers are fetched later. They live in memory and end with the process.

A job runs in parts of a few images, each of which is a request as any other: it takes a place among those in progress,
its client's turn in the model's queue and the same buffers. Parts that are refused for overload wait and try again.
"""

import asyncio
import logging
import secrets
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

from server.contract.manifest import Task
from server.contract.text import PromptError
from server.errors import (
    BodyTooLarge,
    Fault,
    JobUnfinished,
    MemoryExhausted,
    ModelChanged,
    NotReady,
    Overload,
    TooManyJobs,
    UnknownJob,
    problem,
)
from server.inference.fair_queue import FairSemaphore
from server.inference.pipeline import Pipeline
from server.jobs.job import Job, JobPart, JobRequest, without_images
from server.jobs.job_answer import Answer, JobAnswer
from server.memory.client_shares import ClientShares
from server.middleware.admission import Admission
from server.middleware.image_fetcher import ImageFetcher, check_fetching, with_images
from server.request_context import RequestContext
from server.schemas import JobEndpoint, JobState, Problem

log = logging.getLogger(__name__)

PARTS_AT_ONCE = 2  # of all jobs: one is prepared while another runs
OVERLOAD_S = 600.0  # after which a part that is refused for overload fails its job
MAX_WAIT_S = 5.0
RETRY_AFTER_S = 10
_STOPPED = "the server stops, which ends all jobs: submit it again"
_TASKS: dict[JobEndpoint, Task] = {
    "/detect": "detect",
    "/classify": "classify",
    "/similarity": "similarity",
    "/embed": "similarity",
}


class Jobs:
    """The jobs of all clients; used from the event loop's thread only."""

    def __init__(self, pipeline: Pipeline, admission: Admission, fetcher: ImageFetcher | None) -> None:
        self._pipeline, self._admission, self._fetcher = pipeline, admission, fetcher
        settings = pipeline.settings
        self._jobs: dict[str, Job] = {}
        self._places = ClientShares(settings.max_jobs, kept=settings.max_jobs // 4)
        self._memory = ClientShares(settings.job_bytes, kept=settings.job_bytes // 4)
        self._turns = FairSemaphore(PARTS_AT_ONCE)
        self._part_images = max(1, min(settings.max_images, settings.max_batch, settings.max_queue // 4))
        self._process = secrets.token_hex(4)  # begins the ids of its jobs
        self._stopping = False

    def submit(self, endpoint: JobEndpoint, request: JobRequest, context: RequestContext) -> Job:
        """Accept a request of the context's client as a job; an Overload where there is no room for it."""
        if self._stopping:
            raise NotReady(_STOPPED)
        if request.urls:
            check_fetching(self._fetcher)
        self._pipeline.choose(request.model, _TASKS[endpoint], context)
        job = Job(
            id=f"{self._process}{secrets.token_hex(12)}",
            owner=context.client,
            endpoint=endpoint,
            request=without_images(request),
            by_url=bool(request.urls),
            priority=context.priority,
            place=self._places.hold(context.client),
            memory=self._memory.hold(context.client),
            pictures=[*request.pictures, *request.urls],
        )
        self._make_room(job)
        self._jobs[job.id] = job
        self._count(job, "queued")
        job.task = asyncio.create_task(self._answer_of(job))
        job.task.add_done_callback(partial(self._ended, job))
        return job

    def get(self, name: str, client: str, *, keys: bool) -> Job:
        """The job of this id; UnknownJob where there is none, or with `keys` where it is another's."""
        job = self._jobs.get(name)
        if job is not None and (not keys or job.owner == client):
            return job
        if name.startswith(self._process):
            kept = self._pipeline.settings.job_keep_s
            raise UnknownJob(f"you have no such job: it was cancelled, or ended over {kept} s ago; submit it again")
        raise UnknownJob(
            "this server process has no such job: jobs end with the process that took them, so after a restart submit"
            " it again; of several servers behind one address each knows its own"
        )

    def of(self, client: str) -> list[Job]:
        """The jobs of a client, oldest first."""
        return [job for job in self._jobs.values() if job.owner == client]

    def answer(self, job: Job) -> bytes:
        """The answer of a job as JSON; JobUnfinished before its end, its own fault where it failed."""
        if job.fault:
            raise job.fault.with_traceback(None)  # each time adds to it
        if job.answer is None:
            raise JobUnfinished(f"the job is {job.state}: {job.done} of {job.images} images are done")
        return job.answer

    def remove(self, job: Job) -> None:
        """Forget a job; one that has not ended is cancelled."""
        if self._jobs.pop(job.id, None) is None:
            return
        self._pipeline.metrics.jobs.labels(job.state).dec()
        if job.forgetting:
            job.forgetting.cancel()
        if job.task:
            job.task.cancel()
        else:
            job.release()

    async def cancel(self, job: Job) -> None:
        """As `remove`; what a job that runs holds is free once this returns."""
        task = job.task
        self.remove(job)
        if task:
            await asyncio.wait({task}, timeout=MAX_WAIT_S)

    def stop(self) -> None:
        """Take no more jobs, and end those that run: nobody could fetch their answers."""
        self._stopping = True
        tasks = [job.task for job in self._jobs.values() if job.task]
        if tasks:
            log.warning("the server stops, which ends %d jobs", len(tasks))
        for task in tasks:
            task.cancel()

    async def close(self) -> None:
        """End all jobs."""
        self.stop()
        jobs = list(self._jobs.values())
        await asyncio.gather(*(job.task for job in jobs if job.task), return_exceptions=True)
        for job in jobs:
            self.remove(job)

    def _make_room(self, job: Job) -> None:
        if not job.place.resize(1):
            held, most = len(self.of(job.owner)), self._places.total
            raise TooManyJobs(
                f"you have {held} jobs, and all clients together may have {most} (max_jobs, of which a quarter is kept"
                " for others): DELETE those whose answers you have",
                retry_after=RETRY_AFTER_S,
            )
        if job.memory.resize(job.needed_bytes):
            return
        job.place.release()
        if job.needed_bytes > self._memory.total:
            raise BodyTooLarge(f"a job may hold {self._memory.total} bytes (job_bytes): submit several")
        raise MemoryExhausted(
            f"the jobs that are held leave no room for {job.needed_bytes} bytes: DELETE those whose answers you have",
            retry_after=RETRY_AFTER_S,
        )

    def _ended(self, job: Job, task: "asyncio.Task[bytes]") -> None:
        """Keep what came of a job, and neither its images nor the frames of an error, which hold some."""
        job.task, job.pictures = None, [None] * job.images
        error = NotReady(_STOPPED) if task.cancelled() else cast(Exception | None, task.exception())
        if error is None:
            job.answer = task.result()
        else:
            if not isinstance(error, Fault | PromptError):
                log.error("unexpected error in a job", exc_info=error)
            error.__cause__ = error.__context__ = None
            job.fault, job.problem = error.with_traceback(None), Problem.model_validate(problem(error))
        self._count(job, "succeeded" if error is None else "failed")
        log.info("job of %s: %s, %d images, %s", job.owner, job.endpoint, job.images, job.state)
        if job.id in self._jobs:
            job.memory.resize(job.needed_bytes + len(job.answer or b""))
            self._expire(job)
        else:
            job.release()

    async def _answer_of(self, job: Job) -> bytes:
        answer, parts = JobAnswer(), job.parts(self._part_images)

        async def work() -> None:
            for part in parts:
                self._keep(job, answer, part, await self._answer_to(job, part))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(PARTS_AT_ONCE):
                    group.create_task(work())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return await self._pipeline.in_short(answer.rendered)

    def _keep(self, job: Job, answer: JobAnswer, part: JobPart, answered: Answer) -> None:
        if not answer.add(part.first, answered):
            raise ModelChanged(f"the model {answered.model.name} was replaced while the job ran: submit it again")
        job.finished(part)
        if not job.memory.resize(job.needed_bytes + answer.size):
            raise MemoryExhausted(
                "the jobs that are held leave no room for the answer: DELETE those whose answers you have, and submit"
                " fewer images",
                retry_after=RETRY_AFTER_S,
            )

    async def _answer_to(self, job: Job, part: JobPart) -> Answer:
        """The answer to a part, when it is the client's turn; tried again where it is refused for overload."""
        until = time.monotonic() + OVERLOAD_S
        while True:
            try:
                async with self._turns.slot(client=job.owner, priority=job.priority):
                    if job.state == "queued":
                        self._count(job, "running")
                    return await self._ask(job, part)
            except Overload as fault:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(min(fault.retry_after, MAX_WAIT_S))
            except Fault as fault:
                if fault.image_index is not None:
                    fault.image_index += part.first
                raise

    async def _ask(self, job: Job, part: JobPart) -> Answer:
        context = RequestContext(job.id, job.endpoint, job.owner, priority=job.priority, image_names=part.names)
        with self._admission.place(context):
            request: Any = part.request
            if request.urls:
                request = await with_images(request, self._fetcher, self._pipeline, context)
                context.hold(request.picture_bytes)
            answer: Answer = await getattr(self._pipeline, job.endpoint.removeprefix("/"))(request, context)
            return answer

    def _count(self, job: Job, state: JobState) -> None:
        """Set the state, also in the metrics."""
        metric = self._pipeline.metrics.jobs
        if job.id in self._jobs and job.state != state:
            metric.labels(job.state).dec()
        job.state = state
        if job.id in self._jobs:
            metric.labels(state).inc()

    def _expire(self, job: Job) -> None:
        keep_s = self._pipeline.settings.job_keep_s
        job.ends = datetime.now(UTC) + timedelta(seconds=keep_s)
        job.forgetting = asyncio.get_running_loop().call_later(keep_s, self.remove, job)
