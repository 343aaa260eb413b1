"""Classes of the images of a folder: from ``labels.csv`` in it, or from folders by class.

``labels.csv`` is text in UTF-8, or in UTF-16 with its mark. Columns are separated by tabs,
semicolons or commas: by the first of these for which the first line is a header that names a file
column (:data:`FILE`) and a class column (:data:`CLASS`, or the only other one); without a header,
by that for which it has two columns, the first of which is an image. Nothing is guessed from other
lines. Files are called by their paths below the folder.

Classes are whole numbers from 0 on, or names. Names are numbered by ``classes.txt`` in the folder,
one name a line from class 0 on; without it by ImageNet's own table, if all are its WordNet numbers
(``n01440764``) and the network has 1,000 outputs; else in alphabetical order, as by torchvision's
``ImageFolder``. The number of classes is then that of the names, so that a network of another
number of outputs is not judged by them.

Without ``labels.csv``, the outermost folder of an image is the name of its class, where every image
is in one and there are two or more, unless these are ``train``, ``val`` and ``test``.
"""

from __future__ import annotations

import codecs
import csv
import io
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from a2mim.data.folders import IMAGE_SUFFIXES, remark
from a2mim.messages import UsageError, printable

TABLE, NAMES = "labels.csv", "classes.txt"
FILE = (
    *("file", "filename", "file_name", "filepath", "file_path", "path"),
    *("image", "image_name", "image_path", "img", "name"),
)
"""Names of a file column."""

CLASS = (
    *("class_index", "class_idx", "class_id", "label_index", "label_id", "target", "label"),
    *("class", "class_name", "label_name", "category", "wnid", "synset"),
)
"""Names of a class column; of several, the first of these counts."""

SEPARATORS = ("\t", ";", ",")
SPLITS = frozenset({"train", "val", "test", "valid", "validation"})
"""Folders that are parts of a data set, and no classes."""


@dataclass(frozen=True)
class Classes:
    """Classes of the images of a folder.

    Attributes:
        index: the class of every image, by its name.
        count: how many classes there are; None where only numbers are known.
        where: what tells them.
        names: of the classes, by their numbers; None where only these are known.
    """

    index: dict[str, int]
    count: int | None
    where: str
    names: tuple[str, ...] | None = field(default=None, compare=False)


def has_classes(folder: Path, names: Sequence[str]) -> bool:
    """Whether something tells classes of images, be it right or wrong."""
    return (folder / TABLE).is_file() or _in_folders(names)


def classes_of_images(
    folder: Path, names: Sequence[str], *, outputs: int | None = None, instead: str = ""
) -> Classes:
    """The classes of images.

    Args:
        folder: where they are.
        names: of all images, as in :func:`a2mim.data.folders.image_names`.
        outputs: of the network that is judged by them.
        instead: what else can be done where there are no classes, for the message.

    Raises:
        UsageError: if there are none, an image has none, or a row cannot be used, which is named.
    """
    if not (folder / TABLE).exists() and _in_folders(names):
        texts = {name: name.partition("/")[0] for name in names}
        return _numbered(folder, texts, dict.fromkeys(texts, ""), outputs, "folders by class")
    table = _Table(folder / TABLE, instead)
    texts, lines = table.classes(folder, names)
    if all(_is_number(text) for text in texts.values()):
        index = {name: _number(text, name, lines[name]) for name, text in texts.items()}
        classes = Classes(index, None, TABLE)
    else:
        classes = _numbered(folder, texts, lines, outputs, TABLE)
    without = [name for name in names if name not in classes.index]
    if without:
        raise UsageError(
            f"expected a row for every image in {table.path}, got none for {len(without)}, such as "
            f"{printable(without[0])}; write file,class_index{instead}"
        )
    return replace(classes, index={name: classes.index[name] for name in names})


def _in_folders(names: Sequence[str]) -> bool:
    found = {name.partition("/")[0] if "/" in name else "" for name in names}
    return len(found) > 1 and "" not in found and not found <= SPLITS


def _numbered(
    folder: Path, texts: dict[str, str], lines: dict[str, str], outputs: int | None, where: str
) -> Classes:
    """Names of classes as numbers, by the rule on top of this file.

    Raises:
        UsageError: for numbers among names, or a name that the table lacks.
    """
    found = sorted(set(texts.values()))
    known = _names_in(folder / NAMES)
    if known is not None:
        where += f" and {NAMES}"
        for name, text in texts.items():
            if text not in known:
                place = f" in {lines[name]}" if lines[name] else ""
                raise UsageError(
                    f"expected a class of the {len(known)} in {folder / NAMES}, got "
                    f"{printable(text)!r}{place} for {printable(name)}"
                )
    elif any(lines.values()) and any(map(_is_number, found)):
        name = next(name for name, text in texts.items() if not _is_number(text))
        raise UsageError(
            f"expected a class index, 0 or more, in {lines[name]}, got "
            f"{printable(texts[name])!r} for {printable(name)}; give numbers or names, not both"
        )
    elif outputs == 1000 and set(found) <= _imagenet().keys():
        known, where = _imagenet(), f"{where}, numbered as in ImageNet"
    else:
        known = {text: k for k, text in enumerate(found)}
        if other := [text for text, k in known.items() if text.isdecimal() and int(text) != k]:
            remark(
                f"{folder}: classes in alphabetical order of {where}, as ImageFolder numbers them: "
                f"{other[0]} is class {known[other[0]]}; classes.txt can say otherwise"
            )
    index = {name: known[text] for name, text in texts.items()}
    return Classes(index, len(known), where, tuple(known))


def _names_in(path: Path) -> dict[str, int] | None:
    """The classes of a ``classes.txt``; None if there is none.

    Raises:
        UsageError: if a name is there twice, or a line between names is empty.
    """
    if not path.is_file():
        return None
    known: dict[str, int] = {}
    for number, line in enumerate(_text_of(path).rstrip().splitlines(), 1):
        if not line.strip():
            raise UsageError(f"expected a class in every line of {path}, line {number} is empty")
        if line.strip() in known:
            raise UsageError(f"expected every class once in {path}, got line {number} again")
        known[line.strip()] = len(known)
    return known


@cache
def _imagenet() -> dict[str, int]:
    """WordNet numbers of the 1,000 classes."""
    from timm.data import ImageNetInfo

    return {name: k for k, name in enumerate(ImageNetInfo("imagenet-1k").label_names())}


class _Table:
    """The rows of a ``labels.csv``.

    Raises:
        UsageError: if it cannot be read, is no text, or a quote is wrong in it.
    """

    def __init__(self, path: Path, instead: str) -> None:
        self.path = path
        try:
            self._text = _text_of(path)
        except OSError as error:
            raise UsageError(
                f"expected classes in {path}, cannot read it ({error.strerror}); write the columns "
                "file,class_index with a row for every image, or sort images into folders by "
                f"class, two or more{instead}"
            ) from error

    def classes(self, folder: Path, names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
        """What stands in the class column for each file, also of others, and in which line.

        Raises:
            UsageError: if a row cannot be used, or contradicts another.
        """
        find = _Names(folder, names)
        rows, file, klass, width = self._columns(find)
        texts: dict[str, str] = {}
        lines: dict[str, str] = {}
        unknown: list[str] = []
        repeated: list[str] = []
        for line, row in rows:
            place = f"line {line} of {self.path}"
            if len(row) != width:
                raise UsageError(
                    f"expected {width} columns in {place}, got {len(row)}: "
                    f"{printable(' | '.join(row))[:80]}"
                )
            name, text = find(row[file]) or row[file].strip(), row[klass].strip()
            if not text:
                raise UsageError(f"expected a class in {place}, got none for {printable(name)}")
            if _is_number(text):
                _number(text, name, place)
            if name in texts:
                if not _same(texts[name], text):
                    raise UsageError(
                        f"expected one class for {printable(name)} in {self.path}, got "
                        f"{texts[name]} in {lines[name].partition(' of')[0]} and {text} in line "
                        f"{line}"
                    )
                repeated.append(f"line {line}, {printable(name)}")
                continue
            texts[name], lines[name] = text, place
            if find(row[file]) is None:
                unknown.append(f"line {line}, {printable(name)}")
        self._remark(unknown, "of no image here")
        self._remark(repeated, "there again")
        return texts, lines

    def _remark(self, rows: Sequence[str], what: str) -> None:
        if rows:
            remark(f"{self.path}: {len(rows)} rows are {what}: {rows[0]}")

    def _columns(self, find: _Names) -> tuple[Iterator[tuple[int, list[str]]], int, int, int]:
        """The rows, where in them are file and class, and how many columns they have.

        Raises:
            UsageError: if the first line does not tell.
        """
        two, line, first = [], 1, list[str]()
        wrong: UsageError | None = None
        for separator in SEPARATORS:
            rows = self._rows(separator)
            try:
                line, first = next(rows, (1, []))
            except UsageError as error:  # of quotes, which another separator may explain
                wrong = error
                continue
            header = [field.strip().lower().replace(" ", "_") for field in first]
            if (file := _first(FILE, header)) is not None:
                rest = [k for k in range(len(header)) if k != file]
                klass = _first(CLASS, header)
                klass = rest[0] if klass is None and len(rest) == 1 else klass
                if klass is not None:
                    return rows, file, klass, len(header)
            if len(first) == 2:
                two.append((separator, first[0]))
        here = [(sep, name) for sep, name in two if find(name)] or [
            (sep, name)
            for sep, name in two
            if posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES
        ]
        if not here and wrong is not None:
            raise wrong
        if not here:
            raise UsageError(
                f"expected the columns file,class_index, or two columns of files and classes, in "
                f"line {line} of {self.path}, got "
                f"{printable(self._text.strip().splitlines()[0])[:80] if first else 'nothing'!r}"
            )
        return self._rows(here[0][0]), 0, 1, 2

    def _rows(self, separator: str) -> Iterator[tuple[int, list[str]]]:
        """Number of the line where it begins, and fields, of every row that is not empty."""
        reader = csv.reader(io.StringIO(self._text, newline=""), delimiter=separator, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise UsageError(
                    f"expected a row of a table in line {line} of {self.path}, got: {error}"
                    + (", a quote without an end" if "end of data" in str(error) else "")
                ) from error
            if any(field.strip() for field in row):
                yield line, row


class _Names:
    """Images by what a table may call them.

    Args:
        folder: where they are.
        names: paths below it.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.names = frozenset(names)
        self._plain = {_plain(name): name for name in names}
        self._above = (f"{folder.resolve().as_posix()}/", f"{folder.resolve().name}/")

    def __call__(self, text: str) -> str | None:
        """The image of this name; None if there is none."""
        if text in self.names:
            return text
        for slashed in (text.strip(), text.strip().replace("\\", "/")):
            plain = _plain(slashed)
            for path in (plain, *(plain.removeprefix(above) for above in self._above)):
                if path in self._plain:
                    return self._plain[path]
        return None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", posixpath.normpath(name))


def _first(known: Sequence[str], header: Sequence[str]) -> int | None:
    return next((header.index(name) for name in known if name in header), None)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*[+-]?[0-9]+(\.[0-9]*)?\s*", text) is not None


def _number(text: str, name: str, place: str) -> int:
    """A class index.

    Raises:
        UsageError: if it is none.
    """
    value = float(text)
    if not (value.is_integer() and 0 <= value < 2**53):
        raise UsageError(
            f"expected a class index, 0 or more, in {place}, got {text!r} for {printable(name)}"
        )
    return int(value)


def _same(a: str, b: str) -> bool:
    return a == b or (_is_number(a) and _is_number(b) and float(a) == float(b))


def _text_of(path: Path) -> str:
    """The text of a file.

    Raises:
        OSError: if it cannot be read.
        UsageError: if it is no text in UTF-8, or in UTF-16 with its mark.
    """
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(
            f"expected UTF-8 in line {line} of {path}, got other bytes; save it as UTF-8"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UsageError(
            f"expected text in line {line} of {path}, got a zero byte; save it as UTF-8"
        )
    return text
