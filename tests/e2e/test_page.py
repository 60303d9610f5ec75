"""The page at `/` in a browser, against the bundled models: what it shows is what the server answers."""

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from .conftest import ROOT, free_port, until
from .visiting import ask, body_shown, choose, expect, labels_of, name, printed, run, without_timings

EXAMPLES = ROOT / "server/examples"
BUNDLE = ROOT / "server/bundles/grounding-dino-mini"
SCENE = EXAMPLES / "cow.jpg"


def detections_of(server, **fields):
    answer = server.post("/detect", files={"image": SCENE.read_bytes()}, data=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]["detections"]


def answering(body, status=200, **headers):
    """A route that answers with `body`."""
    kind = "application/json" if status == 200 else "application/problem+json"
    return lambda route: route.fulfill(status=status, headers=headers, content_type=kind, body=json.dumps(body))


def detections_at(*boxes, labels, width=640, height=480):
    """An answer of /detect that has `boxes`, the i-th with the i-th label."""
    found = [
        {"box": box, "label": labels[i % len(labels)], "label_id": i % len(labels), "score": 0.9 - i / 1000}
        for i, box in enumerate(boxes)
    ]
    result = {"width": width, "height": height, "labels": labels, "detections": found}
    model = {"name": "grounding-dino-mini", "family": "grounding_dino", "version": "1"}
    return {"model": model, "results": [result], "timings_ms": {"total": 1.0}}


def test_what_the_server_finds_is_boxed_and_listed(opened, server):
    page = opened()
    ask(page)
    wanted = detections_of(server, labels=labels_of(page))
    default = page.locator("#threshold").input_value()
    listed = [tuple(entry.inner_text().split()) for entry in page.locator("#results li").all()]
    assert listed == [(found["label"], f"{found['score']:.2f}") for found in wanted]
    assert listed
    expect(page.locator("#status")).to_have_text(f"{len(wanted)} found above {float(default):.2f}.")
    photo = page.locator("#photo").bounding_box()
    scale = photo["width"] / 640
    for index, found in enumerate(wanted):
        drawn = page.locator(f".target[data-index='{index}']").bounding_box()
        shown = [drawn["x"], drawn["y"], drawn["x"] + drawn["width"], drawn["y"] + drawn["height"]]
        origin = [photo["x"], photo["y"]] * 2
        np.testing.assert_allclose(shown, np.array(origin) + np.array(found["box"]) * scale, atol=1.5)
    assert "banana" in page.locator("#missing").inner_text()


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("grounding-dino-mini", {}),
        pytest.param("glip-mini", {"nms_iou": 1}, marks=pytest.mark.slow),
        ("glip-mini", {"max_detections": 6, "nms_iou": 0.3}),
    ],
    ids=["defaults", "every box", "few boxes"],
)
def test_threshold_shows_what_the_server_would_answer_and_asks_nothing(opened, server, model, options):
    page = opened()
    page.locator("#model").select_option(model)
    page.locator("#options summary").click()
    for option, value in options.items():
        page.locator(f"#{option}").fill(str(value))
    page.locator("#ask").click()
    expect(page.locator("#threshold")).to_be_visible()
    body_shown(page)
    for threshold in (0.05, 0.11, 0.2, 0.3, 0.42, 0.5, 0.77, 1.0):
        page.locator("#threshold").fill(str(threshold))
        shown = json.loads(page.locator("#snippet").inner_text())["results"][0]["detections"]
        fields = {"model": model, "labels": labels_of(page), "box_threshold": threshold} | options
        assert shown == detections_of(server, **fields), threshold
        assert page.locator("#results li").count() == page.locator(".target").count() == len(shown)
    assert [path for method, path in page.asked if method == "POST"] == ["/detect"]


def test_threshold_above_all_says_what_came_closest(opened):
    page = opened()
    ask(page)
    page.locator("#threshold").fill("1")
    expect(page.locator("#status")).to_contain_text("Nothing scores above 1.00. The best candidate is")


@pytest.mark.parametrize("task", ["detect", "classify", "similarity"])
def test_every_example_shows_what_it_names_first(opened, task):
    page = opened()
    page.locator(f"[value={task}]").check()
    count = page.locator("#examples button").count()
    assert count >= 3
    for place in range(count):
        page.locator("#examples button").nth(place).click()
        expect(page.locator("#examples button").nth(place)).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#results li")).to_have_count(0)
        ask(page)
        found = page.locator("#results .label").all_inner_texts()
        first = labels_of(page)[0]
        assert first in found if task == "detect" else first == found[0]


def test_prompt_is_asked_for_as_a_caption(opened, server):
    page = opened()
    page.locator("[value=prompt]").check()
    page.locator("#prompt").fill("a dog. a bicycle.")
    ask(page)
    assert body_shown(page)["results"][0]["detections"] == detections_of(server, prompt="a dog. a bicycle.")


def test_copy_puts_the_command_on_the_clipboard(opened):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.locator("#copy").click()
    expect(page.locator("#copy")).to_have_text("Copied")
    assert page.evaluate("() => navigator.clipboard.readText()") == printed(page, "curl")


def test_labels_stay_text_wherever_they_are_shown(opened):
    labels = ["<b onclick=alert(1)>bold</b>", "<script>alert(1)</script>"]
    body = detections_at([10, 60, 300, 200], [320, 260, 630, 400], labels=labels)
    page = opened(routes=[("detect", answering(body))])
    name(page, *labels)
    ask(page)
    assert labels_of(page) == labels
    assert page.locator("#results .label").all_inner_texts() == labels
    assert page.locator(".chip text").first.evaluate("text => text.textContent").startswith("<script>")
    assert page.locator("main b, main script, dialog script").count() == 0
    page.locator("#threshold").fill("0.9")
    assert labels[0] in page.locator("#missing").inner_text()


@pytest.mark.parametrize("width", [360, pytest.param(1280, marks=pytest.mark.slow)])
def test_chips_lie_inside_the_frame_however_long_their_labels(opened, width):
    edges = [[0, 0, 40, 30], [600, 0, 640, 30], [0, 450, 40, 480], [600, 450, 640, 480], [0, 0, 640, 480]]
    labels = ["a very long label that says all there is to say about a small thing " * 2, "犬" * 60, "x"]
    page = opened(width=width, routes=[("detect", answering(detections_at(*edges * 3, labels=labels)))])
    ask(page)
    frame = page.locator("#overlay").bounding_box()
    chips = page.locator(".chip").all()
    assert len(chips) == len(edges) * 3
    for chip in chips:
        place = chip.locator("rect").bounding_box()
        words = chip.evaluate("chip => chip.lastChild.getComputedTextLength()")
        for start, size in (("x", "width"), ("y", "height")):
            assert place[start] >= frame[start] - 0.5
            assert place[start] + place[size] <= frame[start] + frame[size] + 0.5
        assert words <= place["width"], "the text fits its chip"


@pytest.mark.parametrize("width", [360, 1280])
def test_long_labels_make_the_page_no_wider_and_unknown_ones_are_told(opened, width):
    page = opened(width=width)
    name(page, "cow", "🐕", "a very long label that says all there is to say about a small thing", "x" * 50)
    ask(page)
    expect(page.locator("#warnings")).to_contain_text("🐕")
    assert page.evaluate("() => document.documentElement.scrollWidth") == width


def test_pointing_at_a_box_highlights_its_entry_and_back(opened):
    page = opened()
    name(page, "cow")
    ask(page)
    page.locator("#threshold").fill("0.35")  # three boxes, the first of which none hides
    page.locator("#results li").nth(1).hover()
    expect(page.locator(".box.lit")).to_have_attribute("data-index", "1")
    page.locator(".target[data-index='2']").hover()
    expect(page.locator("#results [aria-selected=true]")).to_have_count(1)
    expect(page.locator("#results li").nth(2)).to_have_attribute("aria-selected", "true")
    page.locator(".target[data-index='0']").click()
    expect(page.locator("#results li").nth(0)).to_be_focused()


def test_drawn_picture_is_downloaded_in_the_pictures_own_size(opened):
    page = opened()
    expect(page.locator("#download")).to_be_disabled()
    ask(page)
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "cow-drawn.png"
    drawn = Image.open(Path(download.value.path())).convert("RGB")
    assert drawn.size == (640, 480)
    changed = np.abs(np.asarray(drawn, np.int16) - np.asarray(Image.open(SCENE), np.int16)).max(-1) > 60
    for found in body_shown(page)["results"][0]["detections"]:
        left, middle = round(found["box"][0]), round((found["box"][1] + found["box"][3]) / 2)
        assert changed[middle, max(0, left - 3) : left + 4].any(), "the edge of the box is drawn"


PASTE = """async (name) => {
  const blob = await (await fetch('page/examples/dog.jpg')).blob();
  const data = new DataTransfer();
  data.items.add(new File([blob], name, { type: 'image/jpeg' }));
  const event = name === 'dropped.jpg'
    ? new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })
    : new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true });
  document.querySelector('#frame').dispatchEvent(event);
}"""


@pytest.mark.parametrize("called", ["dropped.jpg", "pasted.jpg"])
def test_dropped_and_pasted_pictures_are_asked_about(opened, called):
    page = opened()
    page.evaluate(PASTE, called)
    expect(page.locator("#picture-name")).to_have_text(called)
    expect(page.locator("#examples [aria-pressed=true]")).to_have_count(0)
    name(page, "dog")
    ask(page)
    assert "dog" in page.locator("#results").inner_text()
    assert called in printed(page, "curl")


def test_example_that_arrives_late_does_not_replace_a_picture_brought_meanwhile(opened):
    held = []
    late = ("page/examples/cow.jpg", lambda route: held.append(route))
    page = opened(routes=[late], wait_until="commit")
    expect(page.locator("#examples button")).not_to_have_count(0)
    choose(page, (EXAMPLES / "dog.jpg").read_bytes(), called="mine.jpg")
    for route in held:
        route.continue_()
    name(page, "dog")
    ask(page)
    expect(page.locator("#picture-name")).to_have_text("mine.jpg")


@pytest.mark.slow
def test_picture_turned_by_its_exif_data_is_boxed_upright(opened):
    page = opened()
    exif = Image.Exif()
    exif[0x0112] = 6  # a phone held upright
    turned = io.BytesIO()
    Image.open(SCENE).rotate(90, expand=True).save(turned, "JPEG", exif=exif, quality=95)
    choose(page, turned.getvalue(), called="phone.jpg")
    ask(page)
    answer = body_shown(page)["results"][0]
    assert (answer["width"], answer["height"]) == (640, 480)
    photo = page.locator("#photo").bounding_box()
    assert math.isclose(photo["width"] / photo["height"], 4 / 3, rel_tol=0.02)


def test_problem_is_shown_as_the_server_words_it(opened):
    page = opened()
    choose(page, b"no picture", called="notes.png")
    expect(page.locator("#empty")).to_contain_text("This browser cannot show notes.png")
    page.locator("#ask").click()
    expect(page.locator("#problem")).to_contain_text("Not a picture that can be read")
    expect(page.locator("#problem")).to_contain_text("Request ")
    expect(page.locator("#results li")).to_have_count(0)


def test_full_queue_is_shown_with_the_time_to_wait(opened):
    body = {"type": "urn:openset:problem:queue-full", "title": "The queue is full", "status": 429, "detail": "64 of 64"}
    page = opened(routes=[("detect", answering(body, 429, **{"Retry-After": "7"}))])
    page.locator("#ask").click()
    expect(page.locator("#problem")).to_contain_text("Try again in 7 s.")


def test_server_that_cannot_be_reached_is_a_problem_too(opened):
    page = opened(routes=[("detect", lambda route: route.abort())])
    page.locator("#ask").click()
    expect(page.locator("#problem")).to_contain_text("The server did not answer")
    expect(page.locator("#ask")).to_have_text("Detect")


def test_picture_larger_than_a_request_is_not_sent(opened, server):
    models = server.get("/models").json()
    models["limits"]["max_body_bytes"] = 1000
    page = opened(routes=[("models", answering(models))])
    page.locator("#ask").click()
    expect(page.locator("#problem")).to_contain_text("The image is too large")
    assert ("POST", "/detect") not in page.asked


def test_question_without_labels_is_not_sent(opened):
    page = opened()
    name(page)
    page.locator("#ask").click()
    expect(page.locator("#status")).to_have_text("Enter at least one label.")
    expect(page.locator("#token")).to_be_focused()


def test_request_can_be_cancelled(opened):
    page = opened(routes=[("detect", lambda route: None)])
    with page.expect_event("requestfailed") as failed:
        page.locator("#ask").click()
        expect(page.locator("#ask")).to_have_text("Detecting…")
        expect(page.locator("#frame")).to_have_attribute("aria-busy", "true")
        expect(page.locator("#answer .skeleton")).to_be_visible()
        page.locator("#cancel").click()
    assert failed.value.url.endswith("/detect")
    expect(page.locator("#status")).to_have_text("Cancelled.")
    expect(page.locator("#ask")).to_have_text("Detect")


def test_double_click_asks_once_and_does_not_cancel(opened):
    page = opened()
    page.locator("#ask").dblclick()
    expect(page.locator("#results li").first).to_be_visible()
    page.locator("#token").focus()
    page.keyboard.press("Enter")
    page.locator("#ask").click()
    expect(page.locator("#ask")).to_have_text("Detect")
    expect(page.locator("#status")).to_contain_text("found above")
    assert page.asked.count(("POST", "/detect")) <= 3


def test_answer_to_an_earlier_question_says_so(opened):
    page = opened()
    ask(page)
    page.locator("#token").fill("penguin")
    expect(page.locator("#status")).to_have_text("The form has changed since this result.")


def test_page_waits_for_models_that_are_being_loaded(opened, server):
    answers = iter([{"models": [], "limits": {}}, server.get("/models").json()])
    page = opened(routes=[("models", lambda route: route.fulfill(json=next(answers)))])
    expect(page.locator("#status")).to_have_text("The models are being loaded…")
    expect(page.locator("#model option")).to_have_count(2)
    ask(page)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """A server that wants a key, and the key."""
    folder, port = tmp_path_factory.mktemp("keyed"), free_port()
    openset = [sys.executable, "-m", "server"]
    made = subprocess.run([*openset, "key", "new", "visitor"], cwd=ROOT, capture_output=True, text=True, check=True)
    key, line = (text.split(":", 1)[1].strip() for text in made.stdout.splitlines())
    (folder / "keys.txt").write_text(line)
    settings = [
        "--port",
        str(port),
        "--api-keys-file",
        str(folder / "keys.txt"),
        "--warm-up",
        "none",
        "--bundle",
        str(BUNDLE),
    ]
    command = [*openset, "serve", "--log-level", "warning", *settings]
    with subprocess.Popen(command, cwd=ROOT) as process, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        try:
            until(lambda: client.get("/readyz").status_code == 200, "the server is ready")
            yield client, key
        finally:
            process.terminate()


def test_key_is_asked_for_and_kept_in_the_tab_alone(opened, keyed, tmp_path):
    server, key = keyed
    page = opened(server=server)
    dialog = page.locator("#key-dialog")
    expect(dialog).to_be_visible()
    page.locator("#key").fill("osk_wrong")
    page.locator("#key").press("Enter")
    expect(page.locator("#key-problem")).to_contain_text("or was removed")
    page.locator("#key").fill(key)
    page.locator("#key").press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.locator("#model option")).to_have_count(1)
    expect(page.locator("#docs")).to_be_hidden()
    ask(page)
    kept = page.evaluate("() => [Object.values(sessionStorage), localStorage.length, document.cookie]")
    assert kept == [[key], 0, ""]
    command = printed(page, "curl")
    assert key not in command + printed(page, "python") + page.url
    assert "$OPENSET_API_KEY" in command
    answer = json.loads(run(["bash", "-c", command], tmp_path, OPENSET_API_KEY=key))
    assert without_timings(answer) == without_timings(body_shown(page))
    run([sys.executable, "-c", printed(page, "python")], tmp_path, OPENSET_API_KEY=key)
    page.locator("#key-button").click()
    page.locator("#key-forget").click()
    assert page.evaluate("() => sessionStorage.length") == 0
    page.locator("#ask").click()
    expect(dialog).to_be_visible()
