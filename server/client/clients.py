"""`Client` and `AsyncClient`: the same calls, carried out in a thread or in a task."""

from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import anyio.to_thread
import httpx

from server.client.calls import Calls, ClassifyOptions, DetectOptions, SimilarityOptions, Texts
from server.client.detections import Detected
from server.client.pictures import Pictures
from server.client.retries import Clock, Retries
from server.client.steps import Pause, Send, Step, Steps, Walk
from server.schemas import ClassifyAnswer, ModelsAnswer, SimilarityAnswer

T = TypeVar("T")
TIMEOUT_S, RETRIES = 60.0, 4


class Client:
    """A client that waits for answers; threads may share one.

    `timeout` is for each wait on the network, as httpx takes it; `retries` are the bounds of trying again where the
    server is busy or cannot be reached (a number: so many attempts after the first). `transport` replaces httpx's own.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float | httpx.Timeout | None = TIMEOUT_S,
        retries: Retries | int = RETRIES,
        transport: httpx.BaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or Clock()
        self._calls = Calls(Retries.of(retries), self._clock)
        self._http = httpx.Client(
            base_url=_address(url), headers=_headers(api_key), timeout=timeout, transport=transport
        )

    def detect(self, images: Pictures, **options: Unpack[DetectOptions]) -> Detected:
        """Find what `labels` or a `prompt` name, in one image or several; see `DetectOptions`.

        Further options: `model`, `box_threshold`, `text_threshold`, `nms_iou`, `max_detections`, `label_scores`.
        """
        return self._run(self._calls.detect(images, options))

    def classify(self, images: Pictures, labels: Texts, **options: Unpack[ClassifyOptions]) -> ClassifyAnswer:
        """Score each image for each label, best first. Options: `model`, `templates`, `multi_label`, `top_k`."""
        return self._run(self._calls.classify(images, labels, options))

    def similarity(self, images: Pictures, texts: Texts, **options: Unpack[SimilarityOptions]) -> SimilarityAnswer:
        """The cosine of each image (rows) with each text (columns). Options: `model`, `embeddings`."""
        return self._run(self._calls.similarity(images, texts, options))

    def models(self) -> ModelsAnswer:
        """The models being served, their certificates, and what the server takes in one request."""
        return self._run(self._calls.models())

    def ready(self) -> bool:
        """Whether the server answers that it may be asked; not tried again."""
        return self._run(self._calls.ready())

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _run(self, steps: Steps[T]) -> T:
        """Carry out the steps of a call."""
        walk = Walk(steps)
        while walk.step is not None:
            try:
                outcome = self._take(walk.step)
            except httpx.RequestError as error:
                walk.failed(error)
            else:
                walk.went(outcome)
        return walk.result

    def _take(self, step: Step) -> Any:
        match step:
            case Send():
                return self._http.request(**step.arguments())
            case Pause():
                return self._clock.sleep(step.seconds)
        return step.run()


class AsyncClient:
    """`Client` for asyncio: the same arguments and methods, to be awaited; tasks may share one.

    Files are read, and pixels compressed, in a worker thread.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float | httpx.Timeout | None = TIMEOUT_S,
        retries: Retries | int = RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or Clock()
        self._calls = Calls(Retries.of(retries), self._clock)
        self._http = httpx.AsyncClient(
            base_url=_address(url), headers=_headers(api_key), timeout=timeout, transport=transport
        )

    async def detect(self, images: Pictures, **options: Unpack[DetectOptions]) -> Detected:
        """As `Client.detect`."""
        return await self._run(self._calls.detect(images, options))

    async def classify(self, images: Pictures, labels: Texts, **options: Unpack[ClassifyOptions]) -> ClassifyAnswer:
        """As `Client.classify`."""
        return await self._run(self._calls.classify(images, labels, options))

    async def similarity(
        self, images: Pictures, texts: Texts, **options: Unpack[SimilarityOptions]
    ) -> SimilarityAnswer:
        """As `Client.similarity`."""
        return await self._run(self._calls.similarity(images, texts, options))

    async def models(self) -> ModelsAnswer:
        """As `Client.models`."""
        return await self._run(self._calls.models())

    async def ready(self) -> bool:
        """As `Client.ready`."""
        return await self._run(self._calls.ready())

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()

    async def _run(self, steps: Steps[T]) -> T:
        """Carry out the steps of a call."""
        walk = Walk(steps)
        while walk.step is not None:
            try:
                outcome = await self._take(walk.step)
            except httpx.RequestError as error:
                walk.failed(error)
            else:
                walk.went(outcome)
        return walk.result

    async def _take(self, step: Step) -> Any:
        match step:
            case Send():
                return await self._http.request(**step.arguments())
            case Pause():
                return await self._clock.sleep_async(step.seconds)
        return await anyio.to_thread.run_sync(step.run)


def _address(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is no URL: {error}") from None
    if address.scheme not in ("http", "https") or not address.host or address.query or address.fragment:
        raise ValueError(f"the server's address must be like http://localhost:8000, got {url!r}")
    return address


def _headers(api_key: str | None) -> dict[str, str]:
    headers = {"Accept": "application/json, application/problem+json;q=0.9"}
    return headers if api_key is None else headers | {"Authorization": f"Bearer {api_key}"}
