import pytest

from export.tensorrt.profiles import profiles
from server.contract.image import canvas_size, resized_size
from server.contract.manifest import read_manifest

DETECTOR = ("batch", "height", "width", "tokens")


@pytest.fixture
def detector(detector_bundle):
    return read_manifest(detector_bundle)


def fits(profile, **sizes):
    return all(profile[axis][0] <= size <= profile[axis][2] for axis, size in sizes.items())


def test_one_profile_spans_all_buckets(detector):
    (profile,) = profiles(detector, DETECTOR, "one")
    assert profile["tokens"] == (1, 32, 256)
    assert profile["batch"] == (1, 1, 4)
    assert profile["height"][1:] == (128, 288)


def test_feature_levels_span_what_their_pictures_become(detector):
    (profile,) = profiles(detector, (*DETECTOR, "height_8", "width_64"), "one")
    assert profile["height_8"][1:] == (16, 36)
    assert profile["width_64"][1:] == (-(-profile["width"][1] // 64), 5)


def test_each_token_bucket_has_profiles_for_broad_and_tall_pictures(detector):
    found = profiles(detector, DETECTOR, "buckets")
    assert len(found) == 10
    assert [profile["tokens"] for profile in found[:5]] == [
        (1, 16, 16), (17, 32, 32), (33, 64, 64), (65, 128, 128), (129, 256, 256),
    ]  # fmt: skip
    assert {(profile["height"][2], profile["width"][2]) for profile in found} == {(128, 288), (288, 128)}


@pytest.mark.parametrize("plan", ["one", "buckets"])
@pytest.mark.parametrize("size", [(480, 640), (640, 480), (100, 100), (5000, 50), (50, 5000), (733, 751)])
def test_every_picture_and_prompt_that_is_served_fits_a_profile(detector, plan, size):
    height, width = resized_size(size[0], size[1], detector.preprocessing)
    height, width = canvas_size(height, width, detector.buckets)
    for tokens in detector.buckets.tokens:
        sizes = {"batch": detector.buckets.max_batch, "height": height, "width": width, "tokens": tokens}
        assert any(fits(profile, **sizes) for profile in profiles(detector, DETECTOR, plan))


def test_usual_size_is_within_its_range(detector):
    for profile in profiles(detector, DETECTOR, "buckets"):
        assert all(least <= usual <= largest for least, usual, largest in profile.values())


def test_texts_come_in_larger_batches_than_pictures(detector, clip_bundle):
    assert profiles(detector, ("batch", "tokens"), "one")[0]["batch"] == (1, 1, 64)
    (profile,) = profiles(read_manifest(clip_bundle), ("batch", "tokens"), "buckets")
    assert profile["tokens"] == (1, 77, 77)


def test_picture_that_is_cropped_has_one_size(clip_bundle):
    (profile,) = profiles(read_manifest(clip_bundle), ("batch", "height", "width"), "buckets")
    assert profile["height"] == profile["width"] == (32, 32, 32)


def test_axis_that_is_not_known_is_named(detector):
    with pytest.raises(ValueError, match="depth"):
        profiles(detector, ("batch", "depth"), "one")
