"""POST /similarity: cosine similarity of images and texts."""

from fastapi import APIRouter, Request, Response

from server.request_context import request_context
from server.requests import SimilarityRequest
from server.routes.body import JSON, negotiate, read_body, rendered, respond, until_disconnected
from server.routes.openapi import VISION_FAULTS, problems, request_body
from server.routes.services import pipeline_of
from server.schemas import SimilarityAnswer

router = APIRouter(tags=["vision"])


@router.post(
    "/similarity",
    summary="Compare images with texts",
    response_model=SimilarityAnswer,
    responses=problems(*VISION_FAULTS),
    openapi_extra=request_body(SimilarityRequest, {"texts": ["a red ball", "a dog"]}),
)
async def similarity(request: Request) -> Response:
    """Computes the cosine similarity of each image (rows) and each text (columns).

    With `embeddings`, the unit-length vectors are returned too.

        curl -F image=@street.jpg -F texts="a photo of a dog" -F texts="a photo of a cat" localhost:8000/similarity
        curl --data-binary @street.jpg -H "Content-Type: image/jpeg" \\
            "localhost:8000/similarity?texts=a%20dog&texts=a%20cat"
    """
    negotiate(request.headers.get("accept"), (JSON,))
    body = await read_body(request, SimilarityRequest)
    answer = await until_disconnected(request, pipeline_of(request).similarity(body, request_context(request.scope)))
    return respond(request, await rendered(request, answer), JSON)
