"""Pictures on the page: several at once, zoom and full screen, the camera, and pictures by URL."""

import io
import json
import re

from PIL import Image

from .conftest import ROOT, until
from .visiting import ask, body_shown, choose, expect, name, printed

EXAMPLES = ROOT / "server/examples"
SEVERAL = [EXAMPLES / f"{stem}.jpg" for stem in ("cow", "dog", "coffee")]


def bring(page, *paths):
    page.locator("#file").set_input_files(list(paths))
    expect(page.locator("#film button")).to_have_count(len(paths))


def test_several_pictures_are_asked_about_at_once(opened):
    page = opened()
    bring(page, *SEVERAL)
    name(page, "airplane", "cat")
    expect(page.locator("#ask")).to_have_text("Detect in 3 images")
    page.locator("#ask").click()
    expect(page.locator(".badge.found")).to_have_count(3)
    counts = page.locator(".badge").all_inner_texts()
    for place, count in enumerate(counts):
        page.locator("#film button").nth(place).click()
        expect(page.locator("#film button").nth(place)).to_have_attribute("aria-current", "true")
        expect(page.locator("#results li")).to_have_count(int(count))
    assert page.asked.count(("POST", "/detect")) == 3, "looking through them asks nothing"


def test_thumbnails_keep_their_shape_on_a_phone(opened):
    page = opened(width=390, height=844)
    bring(page, *SEVERAL, EXAMPLES / "dog.jpg")
    for place in range(4):
        shown = page.locator("#film img").nth(place).bounding_box()
        natural = page.locator("#film img").nth(place).evaluate("image => image.naturalWidth / image.naturalHeight")
        assert abs(shown["width"] / shown["height"] - natural) < 0.2
    film, tools = page.locator("#film").bounding_box(), page.locator("#film-tools").bounding_box()
    assert tools["y"] >= film["y"] + film["height"], "what is done with them is below, not beside"


def test_threshold_counts_in_every_picture(opened):
    page = opened()
    bring(page, *SEVERAL)
    name(page, "airplane")
    page.locator("#ask").click()
    expect(page.locator(".badge.found")).to_have_count(3)
    page.locator("#threshold").fill("1")
    expect(page.locator(".badge").first).to_have_text("0")
    assert page.locator(".badge").all_inner_texts() == ["0", "0", "0"]


def test_bad_picture_is_marked_and_the_others_are_answered(opened, tmp_path):
    page = opened()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    bring(page, SEVERAL[0], broken, SEVERAL[1])
    page.locator("#ask").click()
    expect(page.locator(".badge.found")).to_have_count(2)
    expect(page.locator(".badge.failed")).to_have_count(1)
    page.locator("#film button").nth(1).click()
    expect(page.locator("#problem")).to_contain_text("Not a picture that can be read")


def test_only_pictures_without_an_answer_are_asked_about(opened):
    page = opened()
    bring(page, *SEVERAL[:2])
    page.locator("#ask").click()
    expect(page.locator(".badge.found")).to_have_count(2)
    page.locator("#file").set_input_files(SEVERAL[2])
    expect(page.locator("#film button")).to_have_count(3)
    page.locator("#ask").click()
    expect(page.locator(".badge.found")).to_have_count(3)
    assert page.asked.count(("POST", "/detect")) == 3


def test_example_gives_way_to_pictures_of_ones_own(opened):
    page = opened()
    choose(page, SEVERAL[1].read_bytes(), called="mine.jpg")
    expect(page.locator("#film")).to_be_hidden()


def test_film_is_gone_through_and_emptied_by_keys(opened):
    page = opened()
    bring(page, *SEVERAL)
    page.locator("#film button").first.focus()
    page.keyboard.press("End")
    expect(page.locator("#picture-name")).to_have_text("coffee.jpg")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#film button").nth(1)).to_be_focused()
    page.keyboard.press("Delete")
    expect(page.locator("#film button")).to_have_count(2)
    expect(page.locator("#picture-name")).to_have_text("coffee.jpg")
    page.locator("#film-keep").click()
    expect(page.locator("#film")).to_be_hidden()
    expect(page.locator("#picture-name")).to_have_text("coffee.jpg")


def test_files_that_are_no_images_are_told_about(opened, tmp_path):
    page = opened()
    (tmp_path / "notes.txt").write_text("notes")
    page.locator("#file").set_input_files([SEVERAL[1], tmp_path / "notes.txt"])
    expect(page.locator("#picture-name")).to_have_text("dog.jpg")
    expect(page.locator("#status")).to_contain_text("One file is not an image")


def boxes_fit(page, detections, width=640):
    """True if each box that is drawn lies where the picture shows it."""
    photo = page.locator("#photo").bounding_box()
    scale = photo["width"] / width
    targets = page.locator(".target").all()
    for drawn in targets:
        found = detections[int(drawn.get_attribute("data-index"))]["box"]
        place = drawn.bounding_box()
        for axis, edge in (("x", found[0]), ("y", found[1])):
            if abs(place[axis] - photo[axis] - edge * scale) > 1.5:
                return False
    return bool(targets)


def test_zoom_and_pan_keep_the_boxes_on_the_picture(opened):
    page = opened()
    ask(page)
    found = body_shown(page)["results"][0]["detections"]
    photo = page.locator("#photo")
    whole = photo.bounding_box()
    page.locator("#zoom-in").click()
    page.locator("#frame").focus()
    page.keyboard.press("+")
    until(lambda: photo.bounding_box()["width"] > 2 * whole["width"], "it is zoomed in")
    until(lambda: boxes_fit(page, found), "the boxes fit")
    before = photo.bounding_box()
    page.keyboard.press("ArrowRight")
    until(lambda: photo.bounding_box()["x"] < before["x"], "it moved")
    frame = page.locator("#frame").bounding_box()
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    before = photo.bounding_box()
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 30, steps=4)
    page.mouse.up()
    until(lambda: abs(photo.bounding_box()["x"] - before["x"] - 40) < 1.5, "it follows the pointer")
    until(lambda: boxes_fit(page, found), "the boxes fit")
    page.mouse.move(1, 1)  # away from the box, which is lit under the pointer
    expect(page.locator("#results [aria-selected=true]")).to_have_count(0)
    page.locator("#zoom-fit").click()
    until(lambda: abs(photo.bounding_box()["width"] - whole["width"]) < 1, "all is shown")


def test_wheel_zooms_at_the_pointer_only_with_a_key_that_says_so(opened):
    page = opened()
    ask(page)
    photo = page.locator("#photo")
    whole = photo.bounding_box()
    page.mouse.move(whole["x"] + 100, whole["y"] + 100)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    until(lambda: photo.bounding_box()["width"] > whole["width"] + 10, "it is zoomed in")
    now = photo.bounding_box()
    for axis in ("x", "y"):
        grown = now["width"] / whole["width"]
        assert abs(whole[axis] + 100 - (now[axis] + 100 * grown)) < 2, "the point stays under the pointer"


def test_two_fingers_zoom(opened):
    page = opened(width=390, height=844, has_touch=True, is_mobile=True)
    expect(page.locator("#photo")).to_be_visible()
    photo = page.locator("#photo")
    whole = photo.bounding_box()
    x, y = whole["x"] + whole["width"] / 2, whole["y"] + whole["height"] / 2
    fingers = page.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 20), ("touchMove", 40), ("touchMove", 60), ("touchEnd", None)):
        points = [] if apart is None else [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    until(lambda: photo.bounding_box()["width"] > 1.8 * whole["width"], "it is zoomed in")


def test_full_screen_shows_the_picture_as_large_as_it_fits(opened):
    page = opened()
    ask(page)
    found = body_shown(page)["results"][0]["detections"]
    before = page.locator("#photo").bounding_box()
    page.locator("#full").click()
    page.wait_for_function("() => document.fullscreenElement?.id === 'picture'")
    expect(page.get_by_role("button", name="Leave full screen")).to_be_visible()
    until(lambda: page.locator("#photo").bounding_box()["width"] > before["width"], "it has grown")
    until(lambda: boxes_fit(page, found), "the boxes fit")
    page.locator("#full").click()
    page.wait_for_function("() => !document.fullscreenElement")


def test_camera_takes_a_picture_that_is_asked_about(opened):
    page = opened(permissions=["camera"])
    page.locator("#camera").click()
    expect(page.locator("#shoot")).to_be_enabled()
    page.locator("#shoot").click()
    expect(page.locator("#camera-dialog")).to_be_hidden()
    expect(page.locator("#picture-name")).to_have_text(re.compile(r"camera-\d{6}\.jpg"))
    assert page.evaluate("() => document.querySelector('#video').srcObject") is None, "the camera is off"
    page.locator("#ask").click()
    expect(page.locator("#timing")).not_to_be_empty()


def test_camera_that_is_refused_is_told_in_words(opened):
    page = opened()
    page.evaluate(
        "() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotAllowedError')) }"
    )
    page.locator("#camera").click()
    expect(page.locator("#camera-problem")).to_have_text("The browser was not allowed to use the camera.")
    expect(page.locator("#shoot")).to_be_disabled()
    page.locator("#camera-cancel").click()
    expect(page.locator("#camera-dialog")).to_be_hidden()


def test_server_that_downloads_nothing_says_so(opened):
    page = opened()
    expect(page.locator("#model option")).to_have_count(2)
    page.locator("#by-address").click()
    expect(page.locator("#address-off")).to_contain_text("This server does not download images")
    expect(page.locator("#address")).to_be_disabled()


def test_picture_by_url_is_downloaded_by_the_server_alone(opened, server):
    models = server.get("/models").json() | {"url_images": True}
    asked = []

    def detect(route):
        if route.request.headers["accept"] != "image/png":
            return route.continue_()
        asked.append(route.request.post_data_json)
        if len(asked) == 1:
            problem = {"type": "urn:openset:problem:url-refused", "title": "URL refused", "status": 422, "detail": "no"}
            return route.fulfill(status=422, content_type="application/problem+json", body=json.dumps(problem))
        png = io.BytesIO()
        Image.open(EXAMPLES / "dog.jpg").save(png, "PNG")
        return route.fulfill(content_type="image/png", body=png.getvalue())

    answered = ("models", lambda route: route.fulfill(json=models))
    page = opened(routes=[answered, ("detect", detect)])
    expect(page.locator("#model option")).to_have_count(2)
    page.locator("#by-address").click()
    page.locator("#address").fill("https://pictures.example/my%20dog.jpg?size=2")
    page.locator("#address").press("Enter")
    expect(page.locator("#address-problem")).to_have_text("no")
    page.locator("#address").press("Enter")
    expect(page.locator("#address-dialog")).to_be_hidden()
    expect(page.locator("#picture-name")).to_have_text("my dog.png")
    assert [body["image_url"] for body in asked] == ["https://pictures.example/my%20dog.jpg?size=2"] * 2
    name(page, "dog")
    ask(page)
    assert "curl -s 'https://pictures.example/my%20dog.jpg?size=2' | curl" in printed(page, "curl")
