"""POST /detect: open-set detection, boxes for a caption or a list of labels."""

from fastapi import APIRouter, Request, Response

from server.request_context import request_context
from server.requests import DetectRequest
from server.routes.body import JSON, negotiate, read_body, rendered, respond, until_disconnected
from server.routes.openapi import VISION_FAULTS, problems, request_body
from server.routes.services import pipeline_of
from server.schemas import DetectAnswer

router = APIRouter(tags=["vision"])
PNG = "image/png"


@router.post(
    "/detect",
    summary="Detect objects by name",
    response_model=DetectAnswer,
    responses=problems(*VISION_FAULTS),
    openapi_extra=request_body(DetectRequest, {"labels": ["a red ball", "a dog"], "box_threshold": 0.3}),
)
async def detect(request: Request) -> Response:
    """Detects the objects that a caption (`prompt`) or a list (`labels`) names, in one or several images.

    With `Accept: image/png` and a single image, the response is that image with the boxes drawn on it. The body may
    also be one image, with the other fields in the query.

        curl -F image=@street.jpg -F prompt="a dog. a bicycle." localhost:8000/detect
        curl -F image=@street.jpg -F labels=dog -F labels=bicycle -H "Accept: image/png" -o out.png \\
            localhost:8000/detect
        curl --data-binary @street.jpg -H "Content-Type: image/jpeg" \\
            "localhost:8000/detect?labels=dog&labels=bicycle"
    """
    media_type = negotiate(request.headers.get("accept"), (JSON, PNG))
    body = await read_body(request, DetectRequest)
    pipeline, context = pipeline_of(request), request_context(request.scope)
    if media_type == PNG:
        _, png = await until_disconnected(request, pipeline.detect_drawn(body, context))
        return respond(request, png, PNG)
    answer = await until_disconnected(request, pipeline.detect(body, context))
    return respond(request, await rendered(request, answer), JSON)
