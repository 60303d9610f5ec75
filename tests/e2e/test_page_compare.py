"""Two models side by side, the history of a tab, links that restore a question, and downloads."""

import csv
import io
import json
import zipfile
from pathlib import Path

import yaml
from PIL import Image

from .conftest import ROOT
from .visiting import ask, body_shown, expect, labels_of, name, printed

EXAMPLES = ROOT / "server/examples"


def compare(page):
    page.locator("#model-2").select_option("glip-mini")
    ask(page)
    expect(page.locator("#results-2 li").first).to_be_visible()


def answer_of(server, model, labels):
    data = {"model": model, "labels": labels}
    answer = server.post("/detect", files={"image": (EXAMPLES / "cow.jpg").read_bytes()}, data=data)
    return answer.json()["results"][0]["detections"]


def listed(page, suffix=""):
    return [tuple(entry.inner_text().split()) for entry in page.locator(f"#results{suffix} li").all()]


def test_two_models_answer_side_by_side(opened, server):
    page = opened()
    expect(page.locator("#frame-2")).to_be_hidden()
    compare(page)
    for suffix, model in (("", "grounding-dino-mini"), ("-2", "glip-mini")):
        wanted = answer_of(server, model, labels_of(page))
        assert listed(page, suffix) == [(found["label"], f"{found['score']:.2f}") for found in wanted]
        expect(page.locator(f"#answer-title{suffix}")).to_have_text(model)
        expect(page.locator(f"#caption{suffix}")).to_contain_text(f"{model}: {len(wanted)} found")
    first, second = (page.locator(f"#frame{suffix}").bounding_box() for suffix in ("", "-2"))
    assert first["y"] == second["y"]
    assert first["x"] + first["width"] <= second["x"]
    page.locator("#zoom-in").click()
    expect(page.locator("#frame-2.zoomed")).to_be_visible()
    widths = [page.locator(f"#photo{suffix}").bounding_box()["width"] for suffix in ("", "-2")]
    assert widths[0] == widths[1], "both show the same part"


def test_each_model_has_a_threshold_of_its_own(opened):
    page = opened()
    compare(page)
    second = listed(page, "-2")
    page.locator("#threshold").fill("1")
    expect(page.locator("#results li")).to_have_count(0)
    assert listed(page, "-2") == second
    page.locator("#model-2").select_option("")
    expect(page.locator("#frame-2")).to_be_hidden()
    expect(page.locator("#answer-title")).to_have_text("Result")


def test_comparison_is_offered_where_there_are_two_models(opened):
    page = opened()
    expect(page.locator("#model option")).to_have_count(2)
    expect(page.locator("#compare-field")).to_be_visible()
    page.locator("[value=classify]").check()
    expect(page.locator("#compare-field")).to_be_hidden()


def test_what_was_asked_in_the_tab_comes_back_without_a_request(opened):
    page = opened()
    expect(page.locator("#past")).to_be_hidden()
    ask(page)
    first = listed(page)
    page.locator("#examples button").nth(1).click()
    expect(page.locator("#picture-name")).to_have_text("cat.jpg")
    ask(page)
    expect(page.locator("#past-list button")).to_have_count(2)
    expect(page.locator("#past-list button").nth(1)).to_contain_text("cow, bicycle")
    asked = len(page.asked)
    page.locator("#past-list button").nth(1).click()
    expect(page.locator("#picture-name")).to_have_text("cow.jpg")
    assert labels_of(page)[:2] == ["cow", "bicycle"]
    assert listed(page) == first
    assert not [path for method, path in page.asked[asked:] if method == "POST"]
    page.locator("#past-clear").click()
    expect(page.locator("#past")).to_be_hidden()
    assert page.evaluate("() => [localStorage.length, sessionStorage.length]") == [0, 0]


def test_link_restores_labels_and_settings_and_no_picture(opened):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.locator("#examples button").nth(1).click()
    expect(page.locator("#picture-name")).to_have_text("cat.jpg")
    page.locator("#model").select_option("glip-mini")
    page.locator("#model-2").select_option("grounding-dino-mini")
    name(page, "a & b", "#犬", "<b>")
    page.locator("#options summary").click()
    page.locator("#text_threshold").fill("0.35")
    page.locator("#nms_iou").fill("0.7")
    page.locator("#ask").click()
    expect(page.locator("#threshold-2")).to_be_visible()
    asked = len(page.asked)
    page.locator("#threshold").fill("0.22")
    page.locator("#threshold-2").fill("0.33")
    page.locator("#link").click()
    expect(page.locator("#link")).to_have_text("Copied")
    link = page.evaluate("() => navigator.clipboard.readText()")
    assert len(link) < 500, "it has no picture in it"
    page.wait_for_function("link => location.href === link", arg=link)
    page.goto("about:blank")
    page.goto(link)
    expect(page.locator("#model")).to_have_value("glip-mini")
    expect(page.locator("#picture-name")).to_have_text("cat.jpg")
    expect(page.locator("#model-2")).to_have_value("grounding-dino-mini")
    assert labels_of(page) == ["a & b", "#犬", "<b>"]
    values = [
        page.locator(f"#{id_}").input_value() for id_ in ("text_threshold", "nms_iou", "threshold", "threshold-2")
    ]
    assert values == ["0.35", "0.7", "0.22", "0.33"]
    assert not [path for method, path in page.asked[asked:] if method == "POST"], "a link asks nothing by itself"


def test_link_with_models_that_are_not_served_keeps_the_rest(opened, server):
    page = opened()
    page.goto("about:blank")
    page.goto(f"{server.base_url}/#task=classify&model=none&texts=rocket&texts=pizza&multi_label=true")
    expect(page.locator("[value=classify]")).to_be_checked()
    expect(page.locator("#model")).to_have_value("clip-mini")
    assert labels_of(page) == ["rocket", "pizza"]
    expect(page.locator("#multi_label")).to_be_checked()


def test_text_threshold_is_sent_and_marks_words(opened):
    page = opened()
    name(page, "yellow cow")
    page.locator("#options summary").click()
    expect(page.locator("#text_threshold")).to_have_attribute("placeholder", "0.2")
    page.locator("#text_threshold").fill("1")
    page.locator("#ask").click()
    assert "-F text_threshold=1" in printed(page, "curl")
    page.locator("#threshold").fill("0.05")
    expect(page.locator("#results li").first).to_be_visible()
    assert body_shown(page)["results"][0]["detections"][0]["matched"] == []


def test_shorter_side_is_sent_and_what_the_model_takes_is_told(opened):
    page = opened()
    page.locator("#options summary").click()
    expect(page.locator("#shorter")).to_have_attribute("placeholder", "288")
    page.locator("#shorter").fill("144")
    ask(page)
    assert "-F shorter=144" in printed(page, "curl")
    assert '"shorter": 144' in printed(page, "python")
    page.locator("#shorter").fill("1000")
    page.locator("#ask").click()
    expect(page.locator("#problem")).to_contain_text("grounding-dino-mini takes 72 to 288, got 1000")


def downloaded(page, kind, suffix=""):
    with page.expect_download() as download:
        page.locator(f"#downloads{suffix} [data-file={kind}]").click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_answers_of_several_pictures_are_downloaded_in_every_format(opened):
    page = opened()
    expect(page.locator("#downloads")).to_be_hidden()
    page.locator("#file").set_input_files([EXAMPLES / "cow.jpg", EXAMPLES / "dog.jpg"])
    expect(page.locator("#film button")).to_have_count(2)
    name(page, "cow", "dog")
    page.locator("#ask").click()
    expect(page.locator(".badge.found")).to_have_count(2)
    file, content = downloaded(page, "json")
    answers = json.loads(content)
    assert (file, [answer["image"] for answer in answers]) == ("openset.json", ["cow.jpg", "dog.jpg"])
    found = [each for answer in answers for each in answer["results"][0]["detections"]]
    assert {each["label"] for each in found} == {"cow", "dog"}
    file, content = downloaded(page, "csv")
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert (file, [row["label"] for row in rows]) == ("detections.csv", [each["label"] for each in found])
    file, content = downloaded(page, "coco")
    coco = json.loads(content)
    assert (file, len(coco["annotations"])) == ("coco.json", len(found))
    assert [image["file_name"] for image in coco["images"]] == ["cow.jpg", "dog.jpg"]
    file, content = downloaded(page, "yolo")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert yaml.safe_load(archive.read("data.yaml"))["names"] == ["cow", "dog"]
        assert archive.read("images/dog.jpg") == (EXAMPLES / "dog.jpg").read_bytes()
        lines = [line for name in ("cow", "dog") for line in archive.read(f"labels/{name}.txt").splitlines()]
    assert (file, len(lines)) == ("yolo.zip", len(found))


def test_scores_are_downloaded_as_json_and_csv(opened):
    page = opened()
    page.locator("[value=similarity]").check()
    expect(page.locator("#picture-name")).to_have_text("cow.jpg")
    ask(page)
    visible = page.locator("#downloads button:visible").all_inner_texts()
    assert visible == ["JSON", "CSV"]
    _, content = downloaded(page, "csv")
    assert content.decode().splitlines()[0] == "image,label,score"
    assert len(content.decode().splitlines()) == 1 + len(labels_of(page))


def test_second_models_answer_is_downloaded_and_drawn_too(opened):
    page = opened()
    compare(page)
    _, content = downloaded(page, "json", "-2")
    assert json.loads(content)[0]["model"]["name"] == "glip-mini"
    _, content = downloaded(page, "picture", "-2")
    assert Image.open(io.BytesIO(content)).size == (640, 480)


def test_parts_that_are_computed_in_a_lower_precision_are_told(opened, server):
    models = server.get("/models").json()
    models["models"][1]["artefacts"][0]["precision"] = "int8"
    part = models["models"][1]["artefacts"][0]["part"]
    page = opened(routes=[("models", lambda route: route.fulfill(json=models))])
    page.locator(".about summary").click()
    expect(page.locator("#model-about")).to_contain_text(f"Computed: {part} in int8.")
    page.locator("#model").select_option("glip-mini")
    expect(page.locator("#model-about")).to_contain_text("glip-mini")
    expect(page.locator("#model-about")).not_to_contain_text("Computed:")


def test_card_of_a_model_is_linked_where_there_is_one(opened, server):
    models = server.get("/models").json()
    for model in models["models"]:
        model.pop("card", None)
    models["models"][1]["card"] = "/models/grounding-dino-mini/card"
    page = opened(routes=[("models", lambda route: route.fulfill(json=models))])
    expect(page.locator("#model option")).to_have_count(2)
    page.locator(".about summary").click()
    card = page.get_by_role("link", name="Model card of grounding-dino-mini")
    assert card.evaluate("link => link.href") == f"{server.base_url}/models/grounding-dino-mini/card"
    page.locator("#model").select_option("glip-mini")
    expect(page.locator("#model-about")).to_contain_text("glip-mini")
    expect(page.locator("#model-about a")).to_have_count(0)
