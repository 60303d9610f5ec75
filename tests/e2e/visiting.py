"""What a visitor of the page does, and what is then to be seen on it."""

import json
import os
import subprocess

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
expect = sync_api.expect


def ask(page):
    page.locator("#ask").click()
    expect(page.locator("#results li").first).to_be_visible()


def name(page, *texts):
    """Ask for `texts` instead of the example's."""
    while page.locator("#token-list button").count():
        page.locator("#token-list button").first.click()
    for text in texts:
        page.locator("#token").fill(text)
        page.locator("#token").press("Enter")


def choose(page, data, *, called="picture.png"):
    page.locator("#file").set_input_files({"name": called, "mimeType": "image/png", "buffer": data})
    expect(page.locator("#picture-name")).to_have_text(called)


def body_shown(page):
    """The answer that the page shows as JSON."""
    page.locator("#tab-json").click()
    return json.loads(page.locator("#snippet").inner_text())


def labels_of(page):
    return page.locator("#token-list li span").all_inner_texts()


def run(command, folder, **environment):
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def printed(page, tab):
    page.locator(f"#tab-{tab}").click()
    return page.locator("#snippet").inner_text()


def without_timings(body):
    return {key: value for key, value in body.items() if key != "timings_ms"}
