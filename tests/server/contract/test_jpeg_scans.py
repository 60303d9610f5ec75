"""Scans of a JPEG: complete, or cut between two of them."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from server.contract.jpeg_scans import has_all_scans


def jpeg(**options):
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
def test_whole_file_has_all_scans_with_or_without_its_end_mark(progressive):
    data = jpeg(progressive=progressive)
    assert has_all_scans(data)
    assert has_all_scans(data[:-2])


def test_progressive_file_cut_before_any_scan_lacks_some():
    data = jpeg(progressive=True)
    scans = [found.start() for found in re.finditer(rb"\xff\xda", data)]
    assert len(scans) > 5
    assert not any(has_all_scans(data[:start]) for start in scans)
    assert not any(has_all_scans(data[:start] + b"\xff\xd9") for start in scans)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xda", b"\xff\xd8\xff\xc0\0\x02\xff\xda\0\x03\x09", bytes(99)]
)
def test_other_bytes_have_none(data):
    assert not has_all_scans(data)
