"""POST /embed: embeddings of images, texts, or both, in one space."""

from fastapi import APIRouter, Request, Response

from server.request_context import request_context
from server.requests import EmbedRequest
from server.routes.body import JSON, negotiate, read_body, rendered, respond, until_disconnected
from server.routes.openapi import VISION_FAULTS, problems, request_body
from server.routes.services import pipeline_of
from server.schemas import EmbedAnswer

router = APIRouter(tags=["vision"])


@router.post(
    "/embed",
    summary="Embed images and texts",
    response_model=EmbedAnswer,
    responses=problems(*VISION_FAULTS),
    openapi_extra=request_body(EmbedRequest, {"texts": ["a red ball"]}),
)
async def embed(request: Request) -> Response:
    """Embeds images, texts, or both; the dot product of two embeddings is their cosine.

    For search in many images: embed them once, keep the vectors, and embed only the text of each question.

        curl -F image=@street.jpg localhost:8000/embed
        curl -H "Content-Type: application/json" -d '{"texts": ["a photo of a dog"]}' localhost:8000/embed
        curl --data-binary @street.jpg -H "Content-Type: image/jpeg" localhost:8000/embed
    """
    negotiate(request.headers.get("accept"), (JSON,))
    body = await read_body(request, EmbedRequest)
    answer = await until_disconnected(request, pipeline_of(request).embed(body, request_context(request.scope)))
    return respond(request, await rendered(request, answer), JSON)
