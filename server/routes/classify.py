"""POST /classify: zero-shot classification, a score for each label."""

from fastapi import APIRouter, Request, Response

from server.request_context import request_context
from server.requests import ClassifyRequest
from server.routes.body import JSON, negotiate, read_body, rendered, respond, until_disconnected
from server.routes.openapi import VISION_FAULTS, problems, request_body
from server.routes.services import pipeline_of
from server.schemas import ClassifyAnswer

router = APIRouter(tags=["vision"])


@router.post(
    "/classify",
    summary="Classify images by labels",
    response_model=ClassifyAnswer,
    responses=problems(*VISION_FAULTS),
    openapi_extra=request_body(ClassifyRequest, {"labels": ["a red ball", "a dog"], "top_k": 1}),
)
async def classify(request: Request) -> Response:
    """Scores every label for every image, best first.

    A label is put into each of the `templates`, and their embeddings are averaged.

        curl -F image=@street.jpg -F labels=dog -F labels=cat localhost:8000/classify
        curl --data-binary @street.jpg -H "Content-Type: image/jpeg" \\
            "localhost:8000/classify?labels=dog&labels=cat"
    """
    negotiate(request.headers.get("accept"), (JSON,))
    body = await read_body(request, ClassifyRequest)
    answer = await until_disconnected(request, pipeline_of(request).classify(body, request_context(request.scope)))
    return respond(request, await rendered(request, answer), JSON)
