"""Finds images in folders PART/CLASS/**, without reading them.

Links are followed, and no folder is read twice. What is left out is told.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from .decoding import EXTENSIONS
from .images import DataMissing

Samples = list[tuple[str, int]]
PARTS = ("train", "val", "test")


@cache  # once, also where a command reads a set twice
def tell(text: str) -> None:
    """Writes a line on standard error; of several processes the first one does."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr)


def _several(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")


def _listed(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataMissing(f"{folder} cannot be read: {error.strerror}") from error


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    found = _listed(folder)
    for entry in found:
        if not _hidden(entry) and entry.is_symlink() and not os.path.exists(entry.path):
            raise DataMissing(
                f"{entry.path} is a link to {os.readlink(entry.path)}, where nothing is"
            )
    return found


def _hidden(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(".") or entry.name == "__MACOSX"


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _name_of(entry: os.DirEntry[str]) -> str:
    """The name of a class, which is UTF-8 on the disk whatever the locale says.

    Raises:
        DataMissing: it is not.
    """
    try:
        return os.fsencode(entry.name).decode()
    except UnicodeDecodeError as error:
        raise DataMissing(f"{ascii(entry.path)}: the name of a class must be UTF-8") from error


class _Part:
    """The class folders of one part, and what was left out.

    Raises:
        DataMissing: there are none, or one has a name that cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.left = folder, Counter[str]()
        self.folders: dict[str, str] = {}  # of each class
        for entry in _entries(folder):
            if _hidden(entry):
                self.left["hidden"] += 1
            elif entry.is_dir():
                self.folders[_name_of(entry)] = entry.path
            else:
                self.left["outside of the class folders"] += 1
        if not self.folders:
            files = self.left["outside of the class folders"]
            raise DataMissing(
                f"{folder} must hold a folder for each class, got none and {files} files"
            )
        # The class that a folder belongs to. Those above, to which only links lead, have none.
        self.owners: dict[tuple[int, int], str | None] = {
            _identity(above): None for above in (folder, *folder.resolve().parents)
        }

    def images(self, name: str) -> list[str]:
        """Paths of a class, sorted by folder and name.

        Raises:
            DataMissing: a link leads nowhere, or to a folder of another class.
        """
        found, todo = [], [self.folders[name]]
        while todo:
            identity = _identity(folder := todo.pop())
            if identity in self.owners:
                owner = self.owners[identity]
                if owner not in (None, name):
                    raise DataMissing(f"{folder} belongs to two classes, {owner} and {name}")
                continue
            self.owners[identity] = name
            for entry in _entries(folder):
                extension = os.path.splitext(entry.name)[1].lower()
                if _hidden(entry):
                    self.left["hidden"] += 1
                elif entry.is_dir():
                    todo.append(entry.path)
                elif not entry.is_file():
                    self.left["neither file nor folder"] += 1
                elif extension in EXTENSIONS:
                    found.append(entry.path)
                else:
                    self.left[extension or "without extension"] += 1
        return sorted(found, key=os.path.split)

    def samples(self, labels: Mapping[str, int]) -> Samples:
        """Paths and labels of the images of some classes.

        Raises:
            DataMissing: a class has none; also see `images`.
        """
        paths = {name: self.images(name) for name in labels}
        if self.left:
            reasons = (f"{count} {reason}" for reason, count in self.left.most_common())
            count = sum(map(len, paths.values()))
            tell(f"{self.folder}: {count} images; left out: {_several(reasons)}")
        if empty := [name for name, images in paths.items() if not images]:
            raise DataMissing(
                f"{self.folder} has no image in {_several(empty)}; what is read: "
                + " ".join(sorted(EXTENSIONS))
            )
        return [(path, labels[name]) for name, images in paths.items() for path in images]


def pictures(path: Path, unread: list[str]) -> Iterator[Path]:
    """The images in a folder, in the order of their names; a file is given as it is.

    Why a folder cannot be read, or has no image, is added to `unread`.
    """
    if path.is_file():
        yield path
        return
    found, todo, seen = 0, [path], set()
    while todo:
        try:
            identity, entries = _identity(folder := todo.pop()), _listed(folder)
        except DataMissing as error:
            unread.append(str(error))
            continue
        if identity in seen:
            continue
        seen.add(identity)
        shown = [entry for entry in entries if not _hidden(entry)]
        images = [e for e in shown if Path(e.name).suffix.lower() in EXTENSIONS and not e.is_dir()]
        found += len(images)
        yield from (Path(entry.path) for entry in images)
        todo += [Path(entry.path) for entry in reversed(shown) if entry.is_dir()]
    if not found:
        read = " ".join(sorted(EXTENSIONS))
        unread.append(f"{path} has no image; what is read: {read}")


def labels_for(names: Iterable[str], known: Sequence[str], where: object) -> dict[str, int]:
    """Labels that a network has for the classes of its data, by name.

    Args:
        names: classes of the data.
        known: classes of the network, by label.
        where: what to call the data.

    Raises:
        ValueError: the network does not know one of `names`.
    """
    labels = {name: label for label, name in enumerate(known)}
    for name in names:
        if name not in labels:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {_several(known)}"
            raise ValueError(f"{where} has the class {name}, which the network has not; {hint}")
    if lacking := labels.keys() - set(names):
        absent = [name for name in known if name in lacking]
        tell(f"{where} has no images of these classes of the network: {_several(absent)}")
    return {name: labels[name] for name in names}


def find(
    folder: Path, part: str | None, classes: int | None = None, known: Sequence[str] | None = None
) -> tuple[Samples, Samples, tuple[str, ...]]:
    """Finds the training images and those held out.

    Args:
        folder: holds train/CLASS/* and val/CLASS/* or test/CLASS/*.
        part: what to hold out, one of `PARTS`; by default val, and test where no val is; for a
            network that is evaluated test, and val where no test is.
        classes: how many of the sorted class folders to use; all if None.
        known: the classes of a network by label, for which no training images are needed.

    Returns:
        paths and labels of the training images, none if `known`, and of those held out; and the
        classes by label.

    Raises:
        DataMissing: a part is missing, has other classes, or a class without images.
        ValueError: there are fewer than `classes` classes, or some that `known` lacks.
    """
    usual, other = ("test", "val") if known else ("val", "test")
    held = part or (usual if (folder / usual).is_dir() else other)
    found: dict[str, Samples] = {}
    names: list[str] = []
    for wanted in dict.fromkeys([held] if known else ["train", held]):
        if not (folder / wanted).is_dir():
            missing = wanted if part or wanted == "train" else "val/ and no test"
            raise DataMissing(
                f"{folder} must hold train/CLASS/* and val/CLASS/* or test/CLASS/*, "
                f"but has no {missing}/"
            )
        place = _Part(folder / wanted)
        if classes is not None and len(place.folders) < classes:
            raise ValueError(
                f"classes must be at most {len(place.folders)}, as in {place.folder}, got {classes}"
            )
        chosen = sorted(place.folders)[:classes]
        if others := set(chosen).symmetric_difference(names or chosen):
            raise DataMissing(
                f"train/ and {wanted}/ of {folder} must have the same classes, but only one has "
                f"{_several(sorted(others))}"
            )
        names = chosen
        found[wanted] = place.samples(labels_for(names, known or names, place.folder))
    return ([] if known else found["train"]), found[held], tuple(known or names)
