"""Pictures sorted into a folder for each class."""

from pathlib import Path

from models.data.categories import CategoryNames
from models.data.faults import Faults, RecordFault
from models.data.folders import is_hidden, pictures_in
from models.data.images import DataError, PictureFile
from models.data.odvg import read_label_map
from models.data.records import ClassificationRecord


class ClassFolders:
    """A folder with a folder of pictures for each class, whose name is the folder's, or the label map's entry for that.

    Blanks of a name are written as underscores. Folders with one name are one class. A faulty folder raises DataError,
    or with `skip` is left out and counted in `faults`.
    """

    def __init__(self, folder: Path, *, label_map: Path | None = None, skip: bool = False) -> None:
        self.name = str(folder)
        self.faults = Faults(self.name, skip=skip)
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder of classes")
        mapped = read_label_map(label_map) if label_map else None
        classes = sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
        if missing := [path.name for path in classes if mapped is not None and path.name not in mapped]:
            raise DataError(f"{label_map} has no {missing}")
        names = CategoryNames()
        self._pictures = [
            (names.add(label), picture)
            for label, pictures in self.faults.kept(classes, lambda path: _class_folder(path, mapped))
            for picture in pictures
        ]
        self.names = names.names
        self.faults.log()
        if not self._pictures:
            raise self.faults.first or DataError(
                f"{folder} has no images: a folder of images for each class is expected"
            )

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> ClassificationRecord:
        label, picture = self._pictures[index]
        return ClassificationRecord(PictureFile(picture), label, self.names, str(picture))


def _class_folder(folder: Path, mapped: dict[str, str] | None) -> tuple[str, list[Path]]:
    """The label of a class, and its pictures."""
    label = folder.name.replace("_", " ") if mapped is None else mapped[folder.name]
    if not label.strip() or not label.isprintable():
        raise RecordFault(f"{folder}: {label!r} is no name of a class: a printable text is expected", kind="class name")
    pictures = pictures_in(folder)
    if not pictures:
        raise RecordFault(f"{folder} has no picture: a class is a folder of some", kind="class without a picture")
    return label, pictures
