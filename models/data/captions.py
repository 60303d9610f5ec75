"""Pictures with captions: a folder, a TSV or a JSON-lines file."""

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.data.images import SUFFIXES, DataError, PictureFile
from models.data.json_lines import Lines
from models.data.records import CaptionRecord

LOG = logging.getLogger(__name__)
# Column names in use: open_clip's, the Hugging Face image folder's, and plain ones.
PICTURE_COLUMNS = ("filepath", "file_name", "image", "filename")
CAPTION_COLUMNS = ("title", "text", "caption", "captions")


class CaptionFolder:
    """A folder tree of pictures, each beside a .txt file of the same name with a caption a line."""

    def __init__(self, folder: Path, *, skip: bool = False) -> None:
        self.name = str(folder)
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder of pictures")
        pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        self._pictures = [path for path in pictures if path.with_suffix(".txt").is_file()]
        if lacking := [path for path in pictures if not path.with_suffix(".txt").is_file()]:
            if not skip:
                raise DataError(
                    f"{lacking[0]} has no caption: {lacking[0].with_suffix('.txt').name} is expected beside it"
                )
            LOG.warning("%s: %d pictures without a caption are left out", folder, len(lacking))
        self.skipped = len(lacking)
        if not self._pictures:
            raise DataError(f"{folder} has no picture with a .txt file beside it")

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> CaptionRecord:
        picture = self._pictures[index]
        file = picture.with_suffix(".txt")
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read: {error}") from error
        return CaptionRecord(PictureFile(picture), captions_of(text.splitlines(), str(file)), str(picture))


class CaptionLines:
    """A TSV file with a header, or a JSON-lines file: in every line the path of a picture from `pictures`, and texts.

    The columns, or keys, are named as in `PICTURE_COLUMNS` and `CAPTION_COLUMNS` or as given. Every line is checked
    once: a faulty one raises DataError, or is left out by `skip`.
    """

    def __init__(
        self,
        file: Path,
        pictures: Path,
        *,
        picture_column: str | None = None,
        caption_column: str | None = None,
        skip: bool = False,
    ) -> None:
        self.name = str(file)
        self._lines, self._pictures = Lines(file), pictures
        self._columns = (picture_column, caption_column)
        self._header: list[str] | None = None
        rows = list(range(len(self._lines)))
        if file.suffix.lower() in (".tsv", ".csv") and rows:
            self._separator = "\t" if file.suffix.lower() == ".tsv" else ","
            self._header = self._cells(0)
            self._column(self._header, picture_column, PICTURE_COLUMNS, self._lines.where(0))
            self._column(self._header, caption_column, CAPTION_COLUMNS, self._lines.where(0))
            rows = rows[1:]
        self.skipped = len(rows)
        self._lines.select(kept := [row for row in rows if self._passes(row, skip)])
        self.skipped -= len(kept)
        if self.skipped:
            LOG.warning("%s: %d faulty lines are left out", self.name, self.skipped)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> CaptionRecord:
        where = self._lines.where(index)
        if self._header is None:
            entry: dict[str, Any] = self._lines.entry(index)
        else:
            cells = self._cells(index)
            if len(cells) != len(self._header):
                raise DataError(f"{where} has {len(cells)} columns, the header {len(self._header)}")
            entry = dict(zip(self._header, cells, strict=True))
        picture = entry[self._column(entry, self._columns[0], PICTURE_COLUMNS, where)]
        texts = entry[self._column(entry, self._columns[1], CAPTION_COLUMNS, where)]
        if not isinstance(picture, str) or not picture:
            raise DataError(f"{where}: the picture is {picture!r}; a path is expected")
        return CaptionRecord(PictureFile(self._pictures / picture), captions_of(texts, where), where)

    def _passes(self, row: int, skip: bool) -> bool:
        try:
            self[row]
        except DataError:
            if not skip:
                raise
            return False
        return True

    def _cells(self, index: int) -> list[str]:
        return next(csv.reader([self._lines.text(index)], delimiter=self._separator))

    def _column(self, entry: Any, told: str | None, usual: tuple[str, ...], where: str) -> str:
        wanted = usual if told is None else (told,)
        for name in wanted:
            if name in entry:
                return name
        raise DataError(f"{where} has none of {list(wanted)}; it has {sorted(entry)}")


def captions_of(texts: Any, where: str) -> tuple[str, ...]:
    """Strip one caption or several, without blank ones; DataError if none is left."""
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: the caption is {texts!r}; a text or a list of texts is expected")
    captions = tuple(text.strip() for text in texts if text.strip())
    if not captions:
        raise DataError(f"{where}: the caption is empty")
    return captions


def open_captions(path: Path, pictures: Path | None, **options: Any) -> CaptionFolder | CaptionLines:
    """Open a folder of pictures with captions, or a file that lists them; paths start at `pictures` or beside it."""
    if path.is_dir():
        return CaptionFolder(path, skip=options.get("skip", False))
    readers: dict[str, Callable[..., CaptionLines]] = dict.fromkeys((".tsv", ".csv", ".jsonl"), CaptionLines)
    if path.suffix.lower() not in readers:
        raise DataError(f"{path} is neither a folder nor a file in {sorted(readers)}")
    return readers[path.suffix.lower()](path, path.parent if pictures is None else pictures, **options)
