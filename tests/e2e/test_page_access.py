"""Everybody can use the page (keyboard, screen reader, phone, darkness), and its commands bear any text."""

import email
import http.server
import json
import re
import shutil
import string
import subprocess
import sys
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import ROOT, until
from .visiting import ask, body_shown, choose, expect, name, printed, run, without_timings

SCENE = ROOT / "server/examples/cow.jpg"
SEA = (ROOT / "server/examples/dog.jpg").read_bytes()
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    'it\'s; $(touch x) `y` "z"',
    "@cow.jpg",
    "naïve 犬 🐕",
    "a=b;type=c",
    "[ 1 ]",
]
PHONE = {"width": 360, "height": 740, "has_touch": True, "is_mobile": True}


def focused(page):
    return page.evaluate("() => document.activeElement.id || document.activeElement.textContent.trim()")


def tab_to(page, name, *, key="Tab"):
    """Press Tab until the element of that id, or of that text, has the focus."""
    seen = []
    while focused(page) != name:
        page.keyboard.press(key)
        seen.append(focused(page))
        assert len(seen) < 60, f"{name} is not among {seen}"


def answered(page):
    ask(page)
    return page


def test_keyboard_alone_goes_all_the_way(opened):
    page = opened()
    expect(page.locator("#model option")).to_have_count(2)
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the form"
    page.keyboard.press("Enter")
    tab_to(page, "model")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#model")).to_have_value("glip-mini")
    page.keyboard.press("ArrowUp")
    tab_to(page, "token")
    for _ in page.locator("#token-list li").all():
        page.keyboard.press("Control+A")
        page.keyboard.press("Delete")
        page.keyboard.press("Backspace")  # takes the last label back, to be changed
    page.keyboard.press("Control+A")
    page.keyboard.type("cow, horse")
    page.keyboard.press("Enter")
    assert page.locator("#token-list span").all_inner_texts() == ["cow", "horse"]
    page.keyboard.press("Enter")  # without a text it asks
    expect(page.locator("#results li").nth(1)).to_be_visible()
    tab_to(page, "threshold")
    default = float(page.locator("#threshold").input_value())
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#threshold-value")).to_have_text(f"{default - 0.01:.2f}")
    page.keyboard.press("Tab")
    expect(page.locator("#results li").nth(0)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#results li").nth(1)).to_be_focused()
    expect(page.locator(".box.lit")).to_have_attribute("data-index", "1")
    page.keyboard.press("Escape")
    expect(page.locator(".box.lit")).to_have_count(0)
    page.keyboard.press("Shift+Tab")
    assert focused(page) == "threshold", "the list is one stop"
    tab_to(page, "tab-curl")
    page.keyboard.press("ArrowRight")
    assert focused(page) == "tab-python"
    expect(page.locator("#snippet")).to_contain_text("import urllib.request")


def test_removing_labels_keeps_the_focus_among_them(opened):
    page = opened()
    remove = page.locator("#token-list button")
    remove.last.focus()
    page.keyboard.press("Enter")
    expect(remove.last).to_be_focused()
    for _ in remove.all():
        expect(remove.last).to_be_focused()
        page.keyboard.press("Enter")
    expect(page.locator("#token")).to_be_focused()


def test_screen_reader_is_told_what_happens(opened):
    page = answered(opened())
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^\d found above 0\.\d\d\.$"))
    found = page.get_by_role("listbox", name="Detections, best first").get_by_role("option")
    assert re.fullmatch(r"\w+\s+0\.\d\d", found.first.inner_text())
    expect(page.get_by_role("slider", name="Box threshold")).to_be_visible()
    expect(page.get_by_role("button", name="Remove cow")).to_be_visible()
    expect(page.get_by_role("radio", name="Detect")).to_be_checked()
    expect(page.get_by_role("img", name="The image in the request, cow.jpg")).to_be_visible()
    expect(page.get_by_role("textbox", name="Labels")).to_have_attribute("id", "token")
    expect(page.get_by_role("list", name="Labels")).to_have_attribute("id", "token-list")


def show_answer(page):
    answered(page).locator("#options summary").click()


def show_problem(page):
    choose(page, b"none", called="notes.png")
    page.locator("#ask").click()
    expect(page.locator("#problem")).not_to_be_empty()


def show_classes(page):
    page.locator("[value=classify]").check()
    expect(page.locator("#picture-name")).to_have_text("cow.jpg")
    answered(page)


def show_key_dialog(page):
    page.evaluate("() => { import('/page/keydialog.js').then(({ askForKey }) => askForKey('a wrong key')) }")
    expect(page.locator("#key-dialog")).to_be_visible()


def show_film(page):
    answered(page)
    page.locator("#file").set_input_files([SCENE, ROOT / "server/examples/coffee.jpg"])
    expect(page.locator("#film button")).to_have_count(2)
    page.locator("#model-2").select_option("glip-mini")
    page.locator("#ask").click()
    expect(page.locator(".badge.found")).to_have_count(2)


def show_camera(page):
    page.context.grant_permissions(["camera"])
    page.locator("#camera").click()
    expect(page.locator("#shoot")).to_be_enabled()


def show_address(page):
    page.locator("#by-address").click()
    expect(page.locator("#address-off")).to_be_visible()


SHOWN = {
    "film": show_film,
    "camera": show_camera,
    "address": show_address,
    "answer": show_answer,
    "problem": show_problem,
    "classes": show_classes,
    "key": show_key_dialog,
}


@pytest.mark.parametrize(
    ("scheme", "size", "states"),
    [
        ("light", "phone", ["film", "key", "address"]),
        ("dark", "desktop", ["film", "problem", "classes"]),
        *(
            pytest.param(scheme, size, list(SHOWN), marks=pytest.mark.slow)
            for scheme in ("light", "dark")
            for size in ("phone", "desktop")
        ),
    ],
)
def test_axe_finds_nothing_that_keeps_people_out(opened, scheme, size, states):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    for state in states:
        page = opened(color_scheme=scheme, reduced_motion="reduce", **(PHONE if size == "phone" else {}))
        expect(page.locator("#model option")).to_have_count(2)
        SHOWN[state](page)
        found = axe.Axe().run(page).response["violations"]
        told = [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]
        assert told == [], state


def test_phone_has_no_sideways_scrolling_and_keeps_the_picture_in_sight(opened):
    page = answered(opened(**PHONE))
    page.locator("#tab-python").click()
    assert page.evaluate("() => document.documentElement.scrollWidth") == 360
    page.locator("#threshold").scroll_into_view_if_needed()
    page.locator("#results li").last.focus()
    photo, entry = page.locator("#photo").bounding_box(), page.locator("#results li").last.bounding_box()
    assert photo["y"] >= 0
    assert photo["y"] + photo["height"] <= entry["y"], "the entry is not behind the picture"
    for button in page.locator("button:visible, label.button").all():
        assert button.bounding_box()["height"] >= 24, button.inner_text()


def test_answer_is_drawn_anew_when_the_window_changes(opened):
    page = answered(opened())
    page.set_viewport_size({"width": 420, "height": 800})
    photo = page.locator("#photo")

    [box, *_] = body_shown(page)["results"][0]["detections"]

    def fits():
        place, target = photo.bounding_box(), page.locator(".target[data-index='0']").bounding_box()
        return abs(target["x"] - place["x"] - box["box"][0] * place["width"] / 640) < 1.5

    until(fits, "the boxes fit the picture")


@pytest.mark.parametrize(
    ("task", "own"), [("detect", False), ("detect", True), ("classify", True), ("similarity", True)]
)
def test_printed_commands_give_what_the_page_shows(opened, tmp_path, task, own):
    if not shutil.which("curl"):
        pytest.skip("there is no curl on this machine")
    page = opened()
    page.locator(f"[value={task}]").check()
    if own:
        (tmp_path / 'my "sea", 2;.jpg').write_bytes(SEA)
        choose(page, SEA, called='my "sea", 2;.jpg')
        name(page, "dog", *HOSTILE)
        if task == "classify":
            page.locator("#options summary").click()
            page.locator("#multi_label").check()
            page.locator("#templates").fill("a {}\nthe {}, 'drawn'")
    page.locator("#ask").click()
    expect(page.locator("#timing")).not_to_be_empty()
    if task == "detect":
        page.locator("#threshold").fill("0.15")  # something is found in both pictures
    shown = body_shown(page)
    answer = json.loads(run(["bash", "-c", printed(page, "curl")], tmp_path))
    assert without_timings(answer) == without_timings(shown)
    program = printed(page, "python")
    (tmp_path / "asked.py").write_text(program + "\nprint(json.dumps(answer))", encoding="utf-8")
    out = run([sys.executable, "asked.py"], tmp_path).splitlines()
    assert without_timings(json.loads(out[-1])) == without_timings(shown)
    assert len(out) > 1, "it prints what was found itself"


@pytest.fixture(scope="module")
def echo():
    """A server that keeps what it is sent; its address, and the list of bodies."""
    bodies = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append((self.path, self.headers["Content-Type"], body))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"results": [{"detections": []}]}')

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever).start()
        yield f"http://127.0.0.1:{listening.server_port}/", bodies
        listening.shutdown()


def fields_of(content_type, body):
    """[name, value] of a form's parts, a file's value being its content."""
    form = email.message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    parts = form.get_payload()
    return [(part.get_param("name", header="content-disposition"), part.get_payload(decode=True)) for part in parts]


TEXT = st.text(
    st.one_of(st.sampled_from(string.punctuation + " 'aé犬🐕"), st.characters(exclude_categories=["Cs", "Cc"])),
    min_size=1,
    max_size=30,
).filter(lambda text: text.strip() == text)
NAME = st.text(st.sampled_from(string.punctuation.replace("/", "") + " aé犬"), min_size=1, max_size=20).filter(
    lambda name: name.strip(" .") and name.strip() == name
)
PRINT = """async (request) => {
  const { curl, python } = await import('/page/snippets.js');
  return [curl(request), python(request)];
}"""
SEVERAL = settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def test_printed_commands_carry_any_text_as_it_is(opened, echo, tmp_path):
    if not shutil.which("curl"):
        pytest.skip("there is no curl on this machine")
    page, (base, bodies) = opened(), echo

    @SEVERAL
    @given(st.lists(TEXT, min_size=1, max_size=4), NAME)
    def send(labels, name):
        (tmp_path / name).write_bytes(name.encode())
        fields = [["model", "a"], *(["labels", label] for label in labels), ["box_threshold", 0.3]]
        image = {"name": name, "url": None}
        request = {"task": "detect", "fields": fields, "image": image, "base": base, "keyed": False}
        command, program = page.evaluate(PRINT, request)
        subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True)
        path, kind, body = bodies.pop()
        assert path == "/detect"
        (_, model), *found, (_, threshold) = fields_of(kind, body)[1:]
        assert (model, threshold, {field for field, _ in found}) == (b"a", b"0.3", {"labels"})
        texts = [value.decode() for _, value in found]
        array = len(texts) == 1 and texts[0].startswith("[")
        assert (json.loads(texts[0]) if array else texts) == labels
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=True)
        *_, body = bodies.pop()
        sent = json.loads(body)
        assert (sent["labels"], sent["box_threshold"]) == (labels, 0.3)

    send()
