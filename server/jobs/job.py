"""A job: a request that is answered in parts after its response, its state and its progress."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from server.errors import Fault
from server.inference.request_images import image_names
from server.memory.client_shares import Holding
from server.request_context import Priority
from server.requests import ClassifyRequest, DetectRequest, EmbedRequest, SimilarityRequest
from server.schemas import JobBody, JobEndpoint, JobState, Problem

JobRequest = DetectRequest | ClassifyRequest | SimilarityRequest | EmbedRequest
_OVERHEAD_BYTES = 4096  # of a job without images, generous; a text or URL has as many bytes as characters at least


@dataclass(frozen=True)
class JobPart:
    """Some images of a job, from the one at `first` on, as a request; `names` are theirs in errors."""

    first: int
    request: JobRequest
    names: tuple[str, ...]


@dataclass(eq=False)
class Job:
    """A request of `owner` (a key's name, else an address) that waits, runs, or has an `answer` or a `problem`."""

    id: str
    owner: str
    endpoint: JobEndpoint
    request: JobRequest  # without images
    by_url: bool
    priority: Priority
    place: Holding
    memory: Holding
    pictures: list[bytes | str | Fault | None]  # files, URLs or faults; None for those that are done
    done: int = 0
    state: JobState = "queued"
    answer: bytes | None = None
    fault: Exception | None = None
    problem: Problem | None = None
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    ends: datetime | None = None  # when it is forgotten
    task: "asyncio.Task[bytes] | None" = None
    forgetting: asyncio.TimerHandle | None = None

    @property
    def images(self) -> int:
        """Number of its images."""
        return len(self.pictures)

    def parts(self, size: int) -> Iterator[JobPart]:
        """Its parts of `size` images, one without any where it has texts alone."""
        names, field = image_names(self.images), "image_urls" if self.by_url else "images"
        for first in range(0, max(1, self.images), size):
            images = tuple(self.pictures[first : first + size])
            yield JobPart(first, self.request.model_copy(update={field: images}), tuple(names[first : first + size]))

    def finished(self, part: JobPart) -> None:
        """Note that a part is done, whose pictures are needed no more."""
        count = len(part.names)
        self.pictures[part.first : part.first + count] = [None] * count
        self.done += count

    def release(self) -> None:
        """Let go of its place and its memory."""
        self.place.release()
        self.memory.release()

    @property
    def needed_bytes(self) -> int:
        """Bytes of memory that it holds besides its answer."""
        texts = [text for name in ("labels", "texts", "prompt") for text in getattr(self.request, name, ()) or ()]
        return _OVERHEAD_BYTES + sum(len(each) for each in [*texts, *self.pictures] if isinstance(each, str | bytes))

    def body(self) -> JobBody:
        """Its state as it is answered."""
        return JobBody(
            id=self.id,
            endpoint=self.endpoint,
            state=self.state,
            images=self.images,
            images_done=self.done,
            created_at=self.created,
            expires_at=self.ends,
            problem=self.problem,
        )


def without_images(request: JobRequest) -> JobRequest:
    """A request with all its fields but the images."""
    return request.model_copy(update={"image": None, "image_url": None, "images": (), "image_urls": ()})
