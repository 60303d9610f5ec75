import pytest
import torch

from models.training.average_precision import Found, Truth
from models.training.calibration import best_logit_scale, best_threshold, logit, quiet_threshold

BOX, FAR = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)


def test_the_threshold_lies_between_right_and_wrong_detections():
    truths = [Truth(0, "dog", BOX), Truth(1, "dog", FAR)]
    found = [Found(0, "dog", BOX, 0.5), Found(1, "dog", FAR, 0.4), Found(2, "cat", BOX, 0.2), Found(3, "dog", BOX, 0.1)]
    assert best_threshold(truths, found) == pytest.approx(0.3)


def test_without_detections_there_is_no_threshold():
    with pytest.raises(ValueError, match="for 1 objects"):
        best_threshold([Truth(0, "dog", BOX)], [])


def test_the_scale_recovers_the_confidence_that_fits():
    torch.manual_seed(0)
    cosines = torch.rand(4000, 3) * 2 - 1
    targets = torch.distributions.Categorical(logits=cosines * 8.0).sample()
    assert best_logit_scale(cosines, targets) == pytest.approx(8.0, rel=0.1)


def test_logit_is_the_inverse_of_the_sigmoid():
    assert torch.sigmoid(torch.tensor(logit(0.3))).item() == pytest.approx(0.3)


def test_a_quiet_threshold_leaves_the_share_of_pictures_asked_for_without_anything():
    highest = [place / 20 for place in range(20)]
    threshold = quiet_threshold(highest, 0.95)
    assert sum(score <= threshold for score in highest) >= 19
    assert sum(score <= threshold - 0.05 for score in highest) < 19
