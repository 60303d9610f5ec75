"""Requests of the clients: their content, their number, and the answers joined."""

import httpx
import numpy as np
import pytest

from openset import AnswerError, ClassifyAnswer, DetectAnswer, ImageError, ProblemError, SimilarityAnswer

from .conftest import MODEL, Recorder, fields_of, problem


def test_detect_sends_a_form_with_what_was_given(connect):
    server = Recorder()
    answer = connect(server).detect(b"pic", labels=["dog", " Ünï\n"], box_threshold=0.25, nms_iou=None)
    fields = [
        ("labels", b"dog"),
        ("labels", b'[" \\u00dcn\\u00ef\\n"]'),
        ("box_threshold", b"0.25"),
        ("box_format", b"xyxy"),
    ]
    assert fields_of(server.asked[0]) == [*fields, ("image", b"pic")]
    assert isinstance(answer, DetectAnswer)
    assert answer.results[0].to_coco(image_id=1)[0]["category_id"] == 2


def test_classify_and_similarity_send_their_fields(connect):
    server = Recorder()
    client = connect(server)
    answer = client.classify(b"1", "dog", multi_label=True, top_k=2, templates=["a {}."], model="clip")
    assert isinstance(answer, ClassifyAnswer)
    assert isinstance(client.similarity(b"1", ["x", "y"], embeddings=True), SimilarityAnswer)
    first, second = map(dict, map(fields_of, server.asked))
    assert first == {
        "labels": b"dog", "multi_label": b"true", "top_k": b"2", "templates": b'["a {}."]',
        "model": b"clip", "image": b"1",
    }  # fmt: skip
    assert second == {"texts": b"y", "embeddings": b"true", "image": b"1"}


def test_string_of_labels_is_the_servers_to_read_and_a_list_is_exact(connect):
    server = Recorder()
    client = connect(server)
    client.detect(b"pic", labels="dog, cat")
    client.detect(b"pic", labels=["dog", "tench, Tinca tinca"])
    client.detect("https://a.example/1.jpg", labels=["tench, Tinca tinca"])
    first, second, third = map(fields_of, server.asked)
    assert first[0] == ("labels", b"dog, cat")
    assert second[:2] == [("labels", b"dog"), ("labels", b'["tench, Tinca tinca"]')]
    assert third["labels"] == ["tench, Tinca tinca"]


@pytest.mark.parametrize("options", [{"labels": {"cow": 0.9}}, {"labels": ["cow"], "label_thresholds": {"cow": 0.9}}])
def test_dict_in_place_of_a_list_is_refused(connect, options):
    with pytest.raises(TypeError, match="list"):
        connect(Recorder()).detect(b"pic", **options)


def test_thresholds_of_labels_are_sent_in_their_order(connect):
    server = Recorder()
    connect(server).detect(b"pic", labels=["a", "b"], label_thresholds=[0.5, None], nms_across_labels=True, shorter=320)
    fields = dict(fields_of(server.asked[0]))
    assert (fields["label_thresholds"], fields["nms_across_labels"], fields["shorter"]) == (
        b"0.5,null",
        b"true",
        b"320",
    )


def test_numbers_of_numpy_are_sent_as_numbers(connect):
    server = Recorder()
    connect(server).detect(b"pic", prompt="a dog.", box_threshold=np.float32(0.25), max_detections=np.int64(3))
    assert {("box_threshold", b"0.25"), ("max_detections", b"3")} <= set(fields_of(server.asked[0]))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda client: client.detect(b"x", lables=["dog"]), "no option lables; there are .*labels, prompt"),
        (lambda client: client.detect(b"x", labels=["dog"], box_format="xywh"), "no option box_format"),
        (lambda client: client.classify(b"x", ["dog"], labels2=1), "no option labels2"),
        (lambda client: client.classify(b"x", [5]), "labels must be strings, got int"),
        (lambda client: client.similarity(b"x", [b"dog"]), "texts must be strings, got bytes"),
    ],
)
def test_wrong_argument_is_refused_before_anything_is_sent(connect, call, told):
    server = Recorder()
    with pytest.raises(TypeError, match=told):
        call(connect(server))
    assert server.requests == []


def test_wrong_image_is_refused_before_anything_is_sent(connect):
    server = Recorder(max_images=1)
    with pytest.raises(ImageError, match="image 3 of 3"):
        connect(server).detect([b"x", b"y", 7], labels="dog")
    assert server.requests == []


def test_path_of_a_file_is_not_sent(connect, tmp_path):
    (tmp_path / "secret-name.jpg").write_bytes(b"pic")
    server = Recorder()
    connect(server).detect(tmp_path / "secret-name.jpg", labels="dog")
    assert b"secret" not in server.asked[0].read()


def test_many_images_are_split_and_their_answers_joined_in_order(connect):
    server = Recorder(max_images=3)
    client, images = connect(server), [str(number).encode() for number in range(8)]
    detected = client.detect(images, labels="dog")
    assert [result.labels for result in detected.results] == [[str(number)] for number in range(8)]
    assert server.counts == [3, 3, 2]
    assert detected.timings_ms == {"total": 4.5}
    classified = client.classify(images, ["dog"])
    assert [result.scores[0].label for result in classified.results] == [str(number) for number in range(8)]
    compared = client.similarity(images, ["a"], embeddings=True)
    assert compared.similarity == compared.embeddings.images == [[float(number)] for number in range(8)]
    assert compared.embeddings.texts == [[1.0]]


def test_limits_are_asked_for_once_and_not_for_one_image(connect):
    server = Recorder(max_images=2)
    client = connect(server)
    client.detect(b"1", labels="dog")
    assert len(server.requests) == 1
    client.detect([b"1"] * 4, labels="dog")
    client.detect([b"1"] * 4, labels="dog")
    assert len(server.requests) == 1 + 1 + 2 + 2


def test_server_that_tells_no_limits_gets_all_at_once(connect):
    server = Recorder()
    connect(server).detect([b"1"] * 40, labels="dog")
    assert server.counts == [40]


def test_urls_are_sent_as_they_are_and_apart_from_files(connect):
    server = Recorder(max_images=9)
    given = ["https://a.test/1.jpg", "https://a.test/2.jpg", b"3", "https://a.test/4.jpg"]
    answer = connect(server).detect(given, labels=["dog"], box_threshold=0.5)
    assert [result.labels[0] for result in answer.results] == [given[0], given[1], "3", given[3]]
    first, second, third = map(fields_of, server.asked)
    assert first == {"image_urls": given[:2], "labels": ["dog"], "box_threshold": "0.5", "box_format": "xyxy"}
    assert ("image", b"3") in second
    assert third["image_urls"] == given[3:]


def test_refusal_of_one_of_several_requests_tells_its_images(connect):
    server = Recorder(max_images=2)

    def serve(request):
        return problem(415) if b"wrong" in request.read() else server(request)  # no boundary of a form has a w

    with pytest.raises(ProblemError) as caught:
        connect(serve).detect([b"1", b"2", b"3", b"wrong", b"5"], labels="dog")
    assert caught.value.__notes__ == ["the request had images 3 to 4 of 5"]


def test_answers_of_different_models_are_not_joined(connect):
    server = Recorder(max_images=1)
    server.models = [MODEL, MODEL | {"version": "2"}]
    with pytest.raises(AnswerError, match="different models"):
        connect(server).detect([b"1", b"2"], labels="dog")


def test_answer_with_too_few_results_is_refused(connect):
    server = Recorder()
    server.detect = lambda images: {"results": []}
    with pytest.raises(AnswerError, match="/detect answered 0 results for 1 images"):
        connect(server).detect(b"1", labels="dog")


@pytest.mark.parametrize("told", [{}, {"models": 1, "limits": {"max_images": 2, "new": "x"}}], ids=["nothing", "more"])
def test_server_of_another_version_is_asked_all_the_same(connect, told):
    server = Recorder()

    def serve(request):
        return httpx.Response(200, json=told) if request.method == "GET" else server(request)

    connect(serve).detect([b"1"] * 4, labels="dog")
    assert server.counts == ([2, 2] if told else [4])


def test_members_that_a_newer_server_adds_do_no_harm(connect):
    server = Recorder()
    server.detect = lambda images: {"results": [], "new": 1} | Recorder.detect(server, images)
    assert isinstance(connect(server).detect(b"1", labels="dog"), DetectAnswer)
