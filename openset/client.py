"""`Client`: a blocking client of an Openset server."""

from types import TracebackType
from typing import Any, Self, Unpack

import httpx
from tenacity import Retrying

from openset import endpoints, proxies
from openset.endpoints import Texts, VisionAnswer
from openset.errors import no_answer
from openset.images import ImageInputs
from openset.results import ClassifyAnswer, DetectAnswer, ModelsAnswer, SimilarityAnswer
from openset.retries import Retries
from openset.splitting import Limits


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

        Further options: `model`, `box_threshold`, `text_threshold`, `nms_iou`, `max_detections`, `label_scores`.
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

    def models(self) -> ModelsAnswer:
        """List the models being served, their certificates, and what the server takes in one request."""
        return endpoints.read(self._send("GET", "/models"), ModelsAnswer)

    def ready(self) -> bool:
        """Tell whether the server is ready; not tried again."""
        try:
            return endpoints.is_ready(self._http.get("/readyz"))
        except httpx.RequestError:
            return False

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _ask(self, call: endpoints.VisionCall[VisionAnswer]) -> VisionAnswer:
        if len(call.images) > 1 and self._limits is None:
            self._limits = endpoints.read(self._send("GET", "/models"), endpoints.LimitsAnswer).limits
        answers: list[VisionAnswer] = []
        done = 0
        for batch in call.batches(self._limits or Limits()):
            with call.noted(done, batch):
                answers.append(call.read(self._send("POST", call.path, **call.content(batch)), batch))
            done += len(batch)
        return call.join(answers)

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        attempts = Retrying(**self._retries.policy())
        try:
            return attempts(self._http.send, self._http.build_request(method, path, **content))
        except httpx.RequestError as error:
            raise no_answer(error, attempts.statistics["attempt_number"], self._proxy) from error
