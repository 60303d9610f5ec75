"""Jobs: requests of the vision endpoints that are answered later, their state, their answers, and their end."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from server.errors import (
    JobUnfinished,
    ModelChanged,
    TooManyJobs,
    UnknownJob,
    UnknownModel,
    UnsuitableModel,
    UrlRefused,
)
from server.jobs.job import Job
from server.request_context import request_context
from server.requests import ClassifyRequest, DetectRequest, EmbedRequest, SimilarityRequest
from server.routes.body import JSON, parsed_body, respond
from server.routes.openapi import BODY_FAULTS, VISION_FAULTS, problems, request_body
from server.routes.services import jobs_of
from server.schemas import ClassifyAnswer, DetectAnswer, EmbedAnswer, JobBody, JobEndpoint, JobsAnswer, SimilarityAnswer

router = APIRouter(prefix="/jobs", tags=["jobs"])
_POLL_S = "1"


def _add_submission(
    endpoint: JobEndpoint,
    model: type[DetectRequest] | type[ClassifyRequest] | type[SimilarityRequest] | type[EmbedRequest],
    example: Mapping[str, Any],
) -> None:
    async def submit(request: Request) -> Response:
        body: Any = await parsed_body(request, model)
        job = jobs_of(request).submit(endpoint, body, request_context(request.scope))
        where = f"{request.scope.get('root_path', '')}/jobs/{job.id}"
        return _state(job, 202, Location=where)

    router.post(
        endpoint,
        name=f"submit_{endpoint[1:]}",
        summary=f"Submit a job of {endpoint}",
        description=f"Takes the body of `POST {endpoint}`, with as many images as fit in it, and answers with the job"
        " at once; its answer is one to all images. Jobs yield to other requests, unless `X-Priority` is interactive.",
        status_code=202,
        response_model=JobBody,
        responses=problems(*BODY_FAULTS, UnknownModel, UnsuitableModel, UrlRefused, TooManyJobs),
        openapi_extra=request_body(model, dict(example)),
    )(submit)


_add_submission("/detect", DetectRequest, {"labels": ["a red ball", "a dog"], "on_error": "skip"})
_add_submission("/classify", ClassifyRequest, {"labels": ["a red ball", "a dog"]})
_add_submission("/similarity", SimilarityRequest, {"texts": ["a red ball", "a dog"]})
_add_submission("/embed", EmbedRequest, {"texts": ["a red ball", "a dog"]})


@router.get("", summary="Your jobs", response_model=JobsAnswer)
async def jobs(request: Request) -> Response:
    """Lists the jobs of the API key, or without keys of the address, oldest first."""
    found = jobs_of(request).of(request_context(request.scope).client)
    answer = JobsAnswer(jobs=[job.body() for job in found])
    return Response(answer.model_dump_json(exclude_none=True), media_type=JSON)


@router.get("/{id}", summary="State of a job", response_model=JobBody, responses=problems(UnknownJob))
async def job(request: Request, id: str) -> Response:
    """Tells how far a job has come. It is forgotten some time after its end, and when the server stops."""
    return _state(_find(request, id), 200)


@router.get(
    "/{id}/result",
    summary="Answer of a job",
    response_model=DetectAnswer | ClassifyAnswer | SimilarityAnswer | EmbedAnswer,
    responses=problems(UnknownJob, JobUnfinished, ModelChanged, *VISION_FAULTS),
)
async def job_result(request: Request, id: str) -> Response:
    """The answer to all images of a job, as its endpoint would give it; of one that failed, its problem."""
    return respond(request, jobs_of(request).answer(_find(request, id)), JSON)


@router.delete("/{id}", summary="Cancel or forget a job", status_code=204, responses=problems(UnknownJob))
async def cancel_job(request: Request, id: str) -> Response:
    """Ends a job, if it has not ended, and forgets its answer."""
    await jobs_of(request).cancel(_find(request, id))
    return Response(status_code=204)


def _find(request: Request, name: str) -> Job:
    """The job of this id; without keys the id alone is the right to it, since an address may change."""
    client, keys = request_context(request.scope).client, request.app.state.keys is not None
    return jobs_of(request).get(name, client, keys=keys)


def _state(job: Job, status: int, **headers: str) -> Response:
    if job.ends is None:
        headers["Retry-After"] = _POLL_S
    return Response(job.body().model_dump_json(exclude_none=True), status, headers, JSON)
