"""Frames of a video as pictures (extra `video`, PyAV)."""

from collections.abc import Iterator
from pathlib import Path

from openset.sources import MediaFile

JPEG_QUALITY = 95


class VideoError(Exception):
    """A video that cannot be read; the message says why."""


def sample_frames(video: MediaFile, folder: Path, *, every_s: float) -> Iterator[MediaFile]:
    """Write a frame each `every_s` seconds below `folder`, as JPEG, and yield it once it is there.

    A frame's name is the video's with its time in milliseconds. VideoError, also after some frames, where the file
    ends in something unreadable.
    """
    import av
    from PIL import Image

    target = folder / video.name
    target.mkdir(parents=True, exist_ok=True)
    try:
        here = video.filesystem is None
        with av.open(str(video.path) if here else video.filesystem.open(str(video.path), "rb")) as container:
            if not container.streams.video:
                raise VideoError(f"{video.name} has no video stream")
            due = 0.0
            for frame in container.decode(container.streams.video[0]):
                if frame.time is None or frame.time < due:
                    continue
                due = frame.time + every_s - frame.time % every_s
                path = target / f"{round(frame.time * 1000):09d}.jpg"
                if not path.exists():
                    image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
                    image.save(part := path.with_suffix(".part"), "JPEG", quality=JPEG_QUALITY)
                    part.replace(path)
                yield MediaFile(path, f"{video.name}/{path.name}")
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{video.name} cannot be read as a video: {error.strerror}") from error
