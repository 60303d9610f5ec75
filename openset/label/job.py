"""A labelling job: each picture once through the detector, in parallel, into the results log."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from openset.label.derived_files import is_up_to_date
from openset.label.detector import Detector
from openset.label.results_log import PictureResult, ResultsLog
from openset.label.video import VideoError, sample_frames
from openset.ordered_map import map_in_order
from openset.sources import MediaFile


def label_all(
    sources: Iterable[MediaFile], detector: Detector, log: ResultsLog, *, parallel: int, frames: Path, every_s: float
) -> Iterator[PictureResult]:
    """Label what has no result yet and yield each new result, in order, once it is in the log.

    At most `parallel` pictures are asked for at a time. Frames of videos are written below `frames`, one each `every_s`
    seconds; a video that cannot be read has a result with an `error`, as a picture has.
    """
    done = log.done()
    wanted = (each for each in _pictures(sources, frames, every_s) if _name(each) not in done)

    def label(each: MediaFile | PictureResult) -> PictureResult:
        if isinstance(each, PictureResult):
            return each
        state = _state(each.path)  # before it is read, so that a change meanwhile is seen by the next run
        return detector.label(each).model_copy(update=state)

    for _, result in map_in_order(label, wanted, parallel=parallel):
        log.append(result)
        yield result


def is_current(result: PictureResult, root: Path, frames: Path) -> bool:
    """Whether a result is of the picture, or of a frame of the video, that lies below `root` now."""
    path = root / result.image
    if not path.is_file():
        video, path = path.parent, frames / result.image
        if not is_up_to_date(path, video):
            return False
    return result.modified_ns is None or _state(path) == {
        "modified_ns": result.modified_ns,
        "file_bytes": result.file_bytes,
    }


def _state(path: Path) -> dict[str, int]:
    try:
        found = path.stat()
    except OSError:
        return {}
    return {"modified_ns": found.st_mtime_ns, "file_bytes": found.st_size}


def _pictures(sources: Iterable[MediaFile], frames: Path, every_s: float) -> Iterator[MediaFile | PictureResult]:
    """Pictures, and frames of videos; a result for a video that cannot be read."""
    for source in sources:
        if source.fault is not None:
            yield PictureResult(image=source.name, error=source.fault)
            continue
        if not source.is_video:
            yield source
            continue
        try:
            yield from sample_frames(source, frames, every_s=every_s)
        except VideoError as error:
            yield PictureResult(image=source.name, error=str(error))


def _name(each: MediaFile | PictureResult) -> str:
    return each.image if isinstance(each, PictureResult) else each.name
