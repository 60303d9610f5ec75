import os

import numpy as np
import pytest
from PIL import Image

from openset.label.video import VideoError, sample_frames
from openset.sources import MediaFile

av = pytest.importorskip("av")


@pytest.fixture
def clip(tmp_path):
    """A video of 3 seconds at 10 frames a second, black to white."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 8, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return MediaFile(path, "clips/clip.mp4")


def test_a_frame_each_interval_is_written_and_named_by_its_time(clip, tmp_path):
    frames = list(sample_frames(clip, tmp_path / "frames", every_s=1.0))
    assert [frame.name for frame in frames] == [f"clips/clip.mp4/{time:09d}.jpg" for time in (0, 1000, 2000)]
    greys = [np.asarray(Image.open(frame.path)).mean() for frame in frames]
    assert greys == pytest.approx([0, 80, 160], abs=12)


def test_frames_that_are_there_are_kept(clip, tmp_path):
    first, *_ = sample_frames(clip, tmp_path / "frames", every_s=2.0)
    time = first.path.stat().st_mtime_ns
    first.path.write_bytes(b"kept")
    os.utime(first.path, ns=(time, time))
    list(sample_frames(clip, tmp_path / "frames", every_s=2.0))
    assert first.path.read_bytes() == b"kept"


def test_frames_of_a_video_that_has_changed_are_written_anew(clip, tmp_path):
    first, *_ = sample_frames(clip, tmp_path / "frames", every_s=2.0)
    written = first.path.read_bytes()
    time = first.path.stat().st_mtime_ns
    first.path.write_bytes(b"of the old video")
    os.utime(first.path, ns=(time, time))
    os.utime(clip.path, ns=(time + 5 * 10**9, time + 5 * 10**9))
    list(sample_frames(clip, tmp_path / "frames", every_s=2.0))
    assert first.path.read_bytes() == written


def test_file_that_is_no_video_is_named(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"a\.mp4 cannot be read as a video"):
        list(sample_frames(MediaFile(tmp_path / "a.mp4", "a.mp4"), tmp_path / "frames", every_s=1.0))
