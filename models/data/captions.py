"""Pictures with captions: a folder, a TSV or a JSON-lines file."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from models.data.entries import DataEntry, FilePath, Text, checked, shown
from models.data.faults import Faults, RecordFault
from models.data.folders import pictures_in
from models.data.images import DataError, PictureFile
from models.data.records import CaptionRecord
from models.data.text_files import Lines, read_text

# Column names in use: open_clip's, the Hugging Face image folder's, and plain ones.
PICTURE_COLUMNS = ("filepath", "file_name", "image", "filename")
CAPTION_COLUMNS = ("title", "text", "caption", "captions")


class CaptionTexts(DataEntry):
    """One caption, or several to choose from."""

    kind: ClassVar[str] = "line"
    caption: Text | list[Text] = Field(description="a text or a list of texts is expected")


class CaptionEntry(CaptionTexts):
    """A picture's path and its captions, whatever the file calls them."""

    picture: FilePath = Field(description="a path is expected")


class CaptionFolder:
    """A folder tree of pictures, each beside a .txt file of the same name with a caption a line.

    Every text is checked once: a faulty one raises DataError, or with `skip` is left out and counted in `faults`.
    """

    def __init__(self, folder: Path, *, skip: bool = False) -> None:
        self.name = str(folder)
        self.faults = Faults(self.name, skip=skip)
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder of pictures")
        self._pictures = list(self.faults.passing(pictures_in(folder), _captions_beside))
        self.faults.log()
        if not self._pictures:
            raise self.faults.first or DataError(f"{folder} has no picture with a .txt file beside it")

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> CaptionRecord:
        picture = self._pictures[index]
        return CaptionRecord(PictureFile(picture), _captions_beside(picture), str(picture))


class CaptionLines:
    """A TSV file with a header, or a JSON-lines file: in every line the path of a picture from `pictures`, and texts.

    The columns, or keys, are named as in `PICTURE_COLUMNS` and `CAPTION_COLUMNS` or as given. Every line is checked
    once: a faulty one raises DataError, or with `skip` is left out and counted in `faults`.
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
        self.faults = Faults(self.name, skip=skip)
        self._lines, self._pictures = Lines(file), pictures
        self._columns = (picture_column, caption_column)
        self._header: list[str] | None = None
        rows = range(len(self._lines))
        if file.suffix.lower() in (".tsv", ".csv") and rows:
            self._separator = "\t" if file.suffix.lower() == ".tsv" else ","
            self._header = [cell.strip() for cell in self._cells(0)]
            self._check_header(self._header)
            rows = rows[1:]
        self._lines.select(list(self.faults.passing(rows, self.__getitem__)))
        self.faults.log()

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> CaptionRecord:
        where = self._lines.where(index)
        entry = self._entry(index, where)
        picture = entry[self._column(entry, self._columns[0], PICTURE_COLUMNS, where)]
        texts = entry[self._column(entry, self._columns[1], CAPTION_COLUMNS, where)]
        line = checked(CaptionEntry, {"picture": picture, "caption": texts}, where)
        return CaptionRecord(PictureFile(self._pictures / line.picture), captions_of(line.caption, where), where)

    def _entry(self, index: int, where: str) -> dict[str, Any]:
        if self._header is None:
            return self._lines.entry(index)
        cells = self._cells(index)
        if len(cells) != len(self._header):
            raise RecordFault(f"{where} has {len(cells)} columns, the header {len(self._header)}", kind="line columns")
        return dict(zip(self._header, cells, strict=True))

    def _cells(self, index: int) -> list[str]:
        try:
            # Strict: a quoted field that goes on in the next line would lose its rest.
            return next(csv.reader([self._lines.text(index)], delimiter=self._separator, strict=True))
        except csv.Error as error:
            where = self._lines.where(index)
            raise RecordFault(f"{where} cannot be split into columns: {error}", kind="line columns") from None

    def _check_header(self, header: list[str]) -> None:
        where = self._lines.where(0)
        for told, usual in zip(self._columns, (PICTURE_COLUMNS, CAPTION_COLUMNS), strict=True):
            if header.count(name := self._column(header, told, usual, where)) > 1:
                raise DataError(f"{where} has the column {name!r} more than once")

    def _column(self, entry: Any, told: str | None, usual: tuple[str, ...], where: str) -> str:
        wanted = usual if told is None else (told,)
        for name in wanted:
            if name in entry:
                return name
        raise RecordFault(f"{where} has none of {list(wanted)}; it has {shown(sorted(entry))}", kind="line columns")


def captions_of(texts: str | list[str], where: str) -> tuple[str, ...]:
    """Strip one caption or several, without blank ones; RecordFault if none is left."""
    captions = tuple(text.strip() for text in ([texts] if isinstance(texts, str) else texts) if text.strip())
    if not captions:
        raise RecordFault(f"{where}: the caption is empty", kind="caption")
    return captions


def open_captions(path: Path, pictures: Path | None, **options: Any) -> CaptionFolder | CaptionLines:
    """Open a folder of pictures with captions, or a file that lists them; paths start at `pictures` or beside it."""
    if path.is_dir():
        return CaptionFolder(path, skip=options.get("skip", False))
    readers: dict[str, Callable[..., CaptionLines]] = dict.fromkeys((".tsv", ".csv", ".jsonl"), CaptionLines)
    if path.suffix.lower() not in readers:
        raise DataError(f"{path} is neither a folder nor a file in {sorted(readers)}")
    return readers[path.suffix.lower()](path, path.parent if pictures is None else pictures, **options)


def _captions_beside(picture: Path) -> tuple[str, ...]:
    file = picture.with_suffix(".txt")
    if not file.is_file():
        raise RecordFault(f"{picture} has no caption: {file.name} is expected beside it", kind="no caption")
    return captions_of(read_text(file).splitlines(), str(file))
