"""Frames of a video as pictures (extra `video`, PyAV)."""

from collections.abc import Iterator
from pathlib import Path

from openset.label.derived_files import is_up_to_date, put
from openset.sources import MediaFile

JPEG_QUALITY = 95


class VideoError(Exception):
    """A video that cannot be read; the message says why."""


def sample_frames(video: MediaFile, folder: Path, *, every_s: float) -> Iterator[MediaFile]:
    """Write a frame each `every_s` seconds below `folder`, as JPEG, and yield it once it is there.

    A frame's name is the video's with its time in milliseconds; frames of a video that has changed are written anew.
    VideoError, also after some frames, where the file ends in something unreadable.
    """
    try:
        import av
        from PIL import Image
    except ModuleNotFoundError as error:
        raise VideoError(f"it is a video, which needs {error.name}: the extra `video` brings it") from error

    target = folder / video.name
    target.mkdir(parents=True, exist_ok=True)
    try:
        with av.open(str(video.path)) as container:
            if not container.streams.video:
                raise VideoError(f"{video.name} has no video stream")
            due = 0.0
            for frame in container.decode(container.streams.video[0]):
                if frame.time is None or frame.time < due:
                    continue
                due = frame.time + every_s - frame.time % every_s
                path = target / f"{round(frame.time * 1000):09d}.jpg"
                if not is_up_to_date(path, video.path):
                    image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
                    image.save(part := path.with_suffix(".part"), "JPEG", quality=JPEG_QUALITY)
                    put(part, path, video.path)
                yield MediaFile(path, f"{video.name}/{path.name}")
    except (av.FFmpegError, ValueError) as error:  # ValueError: frames of a size or format that no picture has
        reason = getattr(error, "strerror", None) or error
        raise VideoError(f"{video.name} cannot be read as a video: {reason}") from error
