from export import part_times
from export.part_times import speedups
from server.bundle import Bundle


def test_each_part_of_both_kinds_of_bundle_is_timed(clip_bundle, detector_bundle):
    for folder, parts in ((clip_bundle, 2), (detector_bundle, 3)):
        bundle = Bundle(folder)
        taken = part_times.part_times(bundle)
        assert taken.keys() == bundle.artefacts.keys()
        assert len(taken) == parts
        assert all(seconds > 0 for seconds in taken.values())


def test_speedup_is_the_median_of_rounds(monkeypatch):
    rounds = iter([9.0, 9.0, 2.0, 1.0, 3.0, 1.0, 100.0, 1.0])
    monkeypatch.setattr(part_times, "part_times", lambda bundle: {"detector": next(rounds)})
    monkeypatch.setattr(part_times, "MIN_SECONDS", 0)
    assert speedups("slow", "fast") == {"detector": 3}
