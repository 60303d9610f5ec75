"""POST /classify: which of the labels an image shows."""

from fastapi import APIRouter, Request, Response

from server.request_context import request_context
from server.routes.body import JSON, pipeline_of, read_body, unless_gone
from server.routes.content_negotiation import negotiate
from server.routes.openapi import problems, request_body
from server.schemas import ClassifyAnswer, ClassifyRequest

router = APIRouter(tags=["vision"])


@router.post(
    "/classify",
    summary="Choose among labels",
    response_model=ClassifyAnswer,
    responses=problems(),
    openapi_extra=request_body(ClassifyRequest, {"labels": ["a red ball", "a dog"], "top_k": 1}),
)
async def classify(request: Request) -> Response:
    """Scores each label for each image, best first.

    curl -F image=@street.jpg -F labels=dog -F labels=cat localhost:8000/classify
    curl --data-binary @street.jpg -H "Content-Type: image/jpeg" "localhost:8000/classify?labels=dog&labels=cat"
    """
    negotiate(request.headers.get("accept"), (JSON,))
    body = await read_body(request, ClassifyRequest)
    answer = await unless_gone(request, pipeline_of(request).classify(body, request_context(request.scope)))
    return Response(answer.model_dump_json(exclude_none=True), media_type=JSON)
