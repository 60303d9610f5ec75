"""GET /docs and /redoc: pages of the OpenAPI document that load nothing from elsewhere."""

import re
from importlib.util import find_spec

import pytest

from server.middleware.auth import digest_of
from server.routes.docs import DOCS_FILES

PAGES = ("/docs", "/redoc")
kept = pytest.mark.skipif(not find_spec("fastapi_offline"), reason="fastapi-offline, which has the files, is missing")


@pytest.mark.parametrize("path", PAGES)
def test_page_names_scripts_of_this_server_alone_and_has_none_of_its_own(client, path):
    answer = client.get(path)
    assert "://" not in answer.text
    assert re.findall(r"<script>|<style|style=", answer.text) == []
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "default-src 'none'" in policy


@kept
@pytest.mark.parametrize("path", PAGES)
def test_every_file_of_a_page_is_served(client, path):
    files = re.findall(r"(?:src|href)='([^']+)'", client.get(path).text)
    assert len(files) >= 2
    for file in files:
        assert file.startswith(DOCS_FILES)
        answer = client.get(file)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(("text/javascript", "text/css"))
        assert client.get(file, headers={"If-None-Match": answer.headers["etag"]}).status_code in (200, 304)


def test_pages_need_the_key_that_the_api_needs(start, tmp_path):
    (tmp_path / "keys.txt").write_text(f"ann {digest_of('osk_key')}\n", encoding="utf-8")
    client = start(api_keys_file=tmp_path / "keys.txt")
    paths = ("/docs", "/redoc", DOCS_FILES + "swagger.js", "/openapi.json")
    assert [client.get(path).status_code for path in paths] == [401] * 4
