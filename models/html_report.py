"""Markdown reports as one HTML file each, with their pictures in it, to be sent and opened anywhere."""

import base64
import html
import mimetypes
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #8886; text-align: left }
img { max-width: min(100%, 30rem); margin: .5rem; vertical-align: top; background: #fff }
"""


def html_report(markdown: str, folder: Path) -> str:
    """Render a report, whose pictures are named below `folder`; HTML in its texts is shown, not obeyed."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.add_render_rule("image", lambda _, tokens, index, *rest: _image(tokens, index, folder))
    heading = next((line.lstrip("# ") for line in markdown.splitlines() if line.startswith("# ")), "Report")
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(heading)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{STYLE}</style>\n'
        f"{reader.render(markdown)}</html>\n"
    )


def _image(tokens: Sequence[Token], index: int, folder: Path) -> str:
    name, text = str(tokens[index].attrs["src"]), html.escape(tokens[index].content)
    path = folder / name
    if not path.is_file():
        return text
    kind = mimetypes.guess_type(name)[0] or "image/png"
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{text}" title="{text}" src="data:{kind};base64,{data}">'


def write_reports(folder: Path, markdown: str) -> None:
    """Write `report.md` and `report.html`."""
    # Names of files need not be Unicode.
    (folder / "report.md").write_text(markdown, encoding="utf-8", errors="backslashreplace")
    (folder / "report.html").write_text(html_report(markdown, folder), encoding="utf-8", errors="backslashreplace")
