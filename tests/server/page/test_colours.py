"""The page draws every label in the colour in which the server draws it."""

import json
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from server.inference.drawing import label_colour, text_colour

COLOURS = Path(__file__).parents[3] / "server/page/colours.js"
CODE = """
import { colourOf, textColour } from %s;
console.log(JSON.stringify(Array.from({ length: 60 }, (_, id) => [colourOf(id), textColour(colourOf(id))])));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node.js on this machine")
def test_page_and_server_give_a_label_the_same_colours():
    module = "data:text/javascript," + quote(COLOURS.read_text(encoding="utf-8"))
    code = CODE % json.dumps(module)
    done = subprocess.run(["node", "--input-type=module"], input=code, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = [[label_colour(label_id), text_colour(label_colour(label_id))] for label_id in range(60)]
    rows = [[tuple(bytes.fromhex(colour[1:])) for colour in row] for row in json.loads(done.stdout)]
    assert rows == expected
