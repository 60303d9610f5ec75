import numpy as np

from export.certificate.drawings import BATCH, LABELS, LARGEST_SHORTER, PHOTOGRAPHS, SIZES, drawn_cases
from server.bundle import Bundle
from server.registry.model_cache import BUNDLED


def cases_of(bundle, **rules):
    tokenizer = bundle.prompts if bundle.manifest.detection is not None else bundle.sentences
    return drawn_cases(bundle.manifest.preprocessing.model_copy(update=rules), tokenizer)


def test_drawings_are_the_same_each_time(detector_bundle):
    bundle = Bundle(detector_bundle)
    for one, other in zip(cases_of(bundle), cases_of(bundle), strict=True):
        assert one.texts == other.texts
        assert all(np.array_equal(a, b) for a, b in zip(one.images, other.images, strict=True))


def test_each_detector_picture_has_labels_of_its_own_objects_and_of_others(detector_bundle):
    cases = cases_of(Bundle(detector_bundle))
    assert len(cases) == len(SIZES) + len(PHOTOGRAPHS)
    for case in cases[: len(SIZES)]:
        assert len(case.images) == len(case.texts) == BATCH
        assert all(LABELS - 3 <= len(set(labels)) == len(labels) <= LABELS for labels in case.texts)


def test_large_model_sees_one_picture_at_its_serving_size(detector_bundle):
    cases = cases_of(Bundle(detector_bundle), shorter=800, longer=1333)
    assert [case.shorter for case in cases] == [LARGEST_SHORTER] * (len(SIZES) + len(PHOTOGRAPHS)) + [800]
    assert len(cases[-1].images) == 1


def test_photographs_are_asked_for_what_each_shows(detector_bundle):
    photographs = cases_of(Bundle(detector_bundle))[len(SIZES) :]
    assert [case.name for case in photographs] == [f"photograph of {name}" for name in PHOTOGRAPHS]
    assert all(case.texts == (PHOTOGRAPHS,) for case in photographs)


def test_bundled_clip_names_most_of_the_drawings():
    bundle = Bundle(BUNDLED / "clip-mini")
    cases = cases_of(bundle)[: len(SIZES)]
    images = [pixels for case in cases for pixels in case.pixels(bundle.manifest.preprocessing)]
    scores = bundle.embed_images(images) @ bundle.embed_texts([str(text) for text in cases[0].texts]).T
    assert len(images) == len(SIZES) * BATCH
    assert (np.sort(scores)[:, -1] - np.median(scores, 1) > 0.1).mean() > 0.8, "the model recognises something in them"
