"""GET /docs: the OpenAPI document as one page that works offline."""

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, Field

from server.routes.docs import render


def test_documentation_loads_nothing_from_elsewhere(client):
    page = client.get("/docs").text
    assert all(f"id='{name}'" in page for name in ("detect", "classify", "similarity", "models"))
    assert "<script" not in page
    assert "://" not in page
    assert "box_threshold" in page
    assert "curl -F image=@street.jpg" in page
    assert "X-Request-Timeout-Ms" in page


class _Answer(BaseModel):
    kind: str | None = Field(None, description="<b>either</b> & or")
    counts: list[int] = Field(description="Numbers.")


@pytest.fixture
def page():
    app = FastAPI(title="A & B", summary="Does <things>.")

    @app.get("/items", summary="List")
    def items() -> _Answer:
        """First <paragraph>.

            curl localhost/items

        Last.
        """
        raise NotImplementedError

    return render(app.openapi())


def test_texts_of_the_document_become_no_markup(page):
    assert "<h1>A &amp; B</h1><p>Does &lt;things&gt;." in page
    assert "First &lt;paragraph&gt;." in page
    assert "&lt;b&gt;either&lt;/b&gt; &amp; or" in page


def test_commands_keep_their_lines_and_fields_their_types(page):
    assert "<pre>curl localhost/items</pre>" in page
    assert "<th><code>counts</code></th><td>list of integer</td><td>required</td>" in page
    assert "<th><code>kind</code></th><td>string</td>" in page
