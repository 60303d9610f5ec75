"""The page's modules in Node.js, which runs those that need no browser."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "server/page"


def evaluate(expression, *, names, of, **values):
    """The value of a JavaScript `expression` with `names` from the module `of`, and `values` by name."""
    if shutil.which("node") is None:
        pytest.skip("there is no Node.js on this machine")
    given = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in values.items())
    code = f"import {{ {', '.join(names)} }} from {json.dumps((PAGE / of).as_uri())};\n{given}"
    code += f"console.log(JSON.stringify({expression}));"
    done = subprocess.run(["node", "--input-type=module"], input=code, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
