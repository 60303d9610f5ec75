from models.evaluation.absent_labels import AbsentLabelsMetric
from tests.models.evaluation.scripted_backend import LEFT, ScriptedBackend, measured, query


def test_an_image_is_silent_when_nothing_scores_above_the_models_own_threshold():
    scores = iter([0.5, 0.51, 0.2, None])

    def detect(image, labels):
        score = next(scores)
        return [] if score is None else [(LEFT, 0, score)]

    result = measured(AbsentLabelsMetric("absent"), ScriptedBackend(detect=detect), *[query("a cat")] * 4)
    assert result.figures == {"silent": 0.75, "threshold": 0.5, "questions": 4}
    assert [example.caption for example in result.examples] == ["a cat"]
    ((x, y),) = result.plots[0].lines.values()
    assert (y[x == 0.51].item(), y[0]) == (1, 0.25)
