"""A labelling job: each picture once through the detector, in parallel, into the results log."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from openset.label.detector import Detector
from openset.label.results_log import PictureResult, ResultsLog
from openset.label.sources import MediaFile
from openset.label.video import VideoError, sample_frames


def label_all(
    sources: Iterable[MediaFile], detector: Detector, log: ResultsLog, *, parallel: int, frames: Path, every_s: float
) -> Iterator[PictureResult]:
    """Label what has no result yet and yield each new result, in order, once it is in the log.

    At most `parallel` pictures are asked for at a time. Frames of videos are written below `frames`, one each `every_s`
    seconds; a video that cannot be read has a result with an `error`, as a picture has.
    """
    done = log.done()
    pending: deque[Future[PictureResult]] = deque()
    with ThreadPoolExecutor(parallel, thread_name_prefix="label") as threads:
        try:
            for picture in _pictures(sources, done, frames, every_s):
                if isinstance(picture, PictureResult):
                    log.append(picture)
                    yield picture
                elif picture.name not in done:
                    pending.append(threads.submit(detector.label, picture))
                if len(pending) == parallel:
                    yield _logged(pending.popleft().result(), log)
            while pending:
                yield _logged(pending.popleft().result(), log)
        finally:
            for future in pending:
                future.cancel()


def _pictures(
    sources: Iterable[MediaFile], done: set[str], frames: Path, every_s: float
) -> Iterator[MediaFile | PictureResult]:
    """Pictures, and frames of videos; a result for a video that cannot be read."""
    for source in sources:
        if not source.is_video:
            yield source
            continue
        try:
            yield from sample_frames(source, frames, every_s=every_s)
        except VideoError as error:
            if source.name not in done:
                yield PictureResult(image=source.name, error=str(error))


def _logged(result: PictureResult, log: ResultsLog) -> PictureResult:
    log.append(result)
    return result
