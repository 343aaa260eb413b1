import os

import pytest

from a2mim.data.labels import Classes, classes_of_images, has_classes
from a2mim.messages import UsageError

NAMES = ["a.jpg", "b.png", "deep/c.v2.jpg"]
INDEX = {"a.jpg": 3, "b.png": 305, "deep/c.v2.jpg": 0}
ROWS = [(name, index) for name, index in INDEX.items()]


def table(tmp_path, text: str | bytes, names=NAMES, **options) -> Classes:
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "labels.csv").write_bytes(data)
    return classes_of_images(tmp_path, names, **options)


def lines(separator=",", header="file,class_index", rows=ROWS, end="\n") -> str:
    every = [header.replace(",", separator)] if header else []
    return end.join([*every, *(f"{name}{separator}{index}" for name, index in rows)]) + end


TEXTS = {
    "plain": lines(),
    "mark of UTF-8": b"\xef\xbb\xbf" + lines().encode(),
    "UTF-16": lines().encode("utf-16"),
    "UTF-16 with tabs": lines("\t").encode("utf-16"),
    "ends of Windows": lines(end="\r\n"),
    "ends of old Macs": lines(end="\r"),
    "no end": lines().rstrip(),
    "semicolons": lines(";"),
    "tabs": lines("\t"),
    "no header": lines(header=""),
    "no header, tabs": lines("\t", header=""),
    "no header, semicolons": lines(";", header=""),
    "empty lines": lines().replace("\n", "\n\n"),
    "quotes": lines(rows=[(f'"{name}"', f'"{index}"') for name, index in ROWS]),
    "spaces": lines(rows=[(f" {name} ", f" {index} ") for name, index in ROWS]),
    "dots": lines(rows=[(f"./{name}", index) for name, index in ROWS]),
    "backslashes": lines(rows=[(name.replace("/", "\\"), index) for name, index in ROWS]),
    "points": lines(rows=[(name, f"{index}.0") for name, index in ROWS]),
    "other words": lines(header="Image Name,Label"),
    "the only other column": lines(header="filename,species"),
    "more columns": "who,class,file\n" + "".join(f"me,{i},{n}\n" for n, i in ROWS),
    "index before name": "file,class_name,class_index\n"
    + "".join(f"{n},cat {i},{i}\n" for n, i in ROWS),
    "again": lines(rows=[*ROWS, ("a.jpg", "3.0")]),
    "others too": lines(rows=[*ROWS, ("gone.jpg", 7)]),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_ways_to_write_the_same(tmp_path, text):
    assert table(tmp_path, text) == Classes(INDEX, None, "labels.csv")


def test_separators_inside_of_names(tmp_path):
    names = ["a,1.jpg", "b;2.jpg", "c\t3.jpg"]
    rows = [(f'"{name}"', k) for k, name in enumerate(names)]
    for separator in ",;\t":
        for header in ("file,class_index", ""):
            found = table(tmp_path, lines(separator, header, rows), names)
            assert list(found.index.values()) == [0, 1, 2], (separator, header)
    unquoted = "a,1.jpg;4\nb,2.jpg;5\n"
    assert table(tmp_path, unquoted, ["a,1.jpg", "b,2.jpg"]).index == {"a,1.jpg": 4, "b,2.jpg": 5}


def test_names_as_other_systems_write_them(tmp_path):
    composed, decomposed = "caf\u00e9.jpg", "cafe\u0301.jpg"
    assert table(tmp_path, f"file,class\n{composed},1\n", [decomposed]).index == {decomposed: 1}
    here = f"file,class\n{tmp_path / 'a.jpg'},1\n{tmp_path.name}/b.jpg,2\n"
    assert table(tmp_path, here, ["a.jpg", "b.jpg"]).index == {"a.jpg": 1, "b.jpg": 2}


def test_names_of_classes_are_numbered(tmp_path):
    text = "file,class\na.jpg,newt\nb.png,cat\ndeep/c.v2.jpg,newt\ngone.jpg,dog\n"
    found = table(tmp_path, text)
    assert list(found.index.values()) == [2, 0, 2]  # among all names of the table
    assert found.count == 3
    (tmp_path / "classes.txt").write_text("ant\nnewt\ncat\ndog\n\n")
    found = table(tmp_path, text)
    assert list(found.index.values()) == [1, 2, 1]
    assert (found.count, found.where) == (4, "labels.csv and classes.txt")
    with pytest.raises(UsageError, match=r"4 in .*classes\.txt, got 'cow' in line 3 .* b\.png"):
        table(tmp_path, text.replace("cat", "cow"))
    (tmp_path / "classes.txt").write_text("ant\ncat\nant\n")
    with pytest.raises(UsageError, match="line 3 again"):
        table(tmp_path, text)


def test_imagenet_has_a_table_of_its_own(tmp_path):
    names = ["n01440764/a.jpg", "n01443537/b.jpg", "n02123045/c.jpg"]
    found = classes_of_images(tmp_path, names, outputs=1000)
    assert list(found.index.values()) == [0, 1, 281]  # tench, goldfish, tabby
    assert found.count == 1000
    assert classes_of_images(tmp_path, names, outputs=3).index == dict(
        zip(names, range(3), strict=True)
    )
    assert classes_of_images(tmp_path, names).count == 3


def test_folders_that_are_numbers_are_in_alphabetical_order_and_that_is_said(tmp_path, caplog):
    names = [f"{k}/1.jpg" for k in (0, 1, 2, 10)]
    assert list(classes_of_images(tmp_path, names).index.values()) == [0, 1, 3, 2]
    assert "as ImageFolder numbers them: 10 is class 2; classes.txt can say" in caplog.text
    caplog.clear()
    classes_of_images(tmp_path, names[:3])
    assert not caplog.text


def test_folders_by_class(tmp_path):
    names = ["cat/1.jpg", "cat/deep/2.jpg", "ant/1.jpg"]
    assert has_classes(tmp_path, names)
    found = classes_of_images(tmp_path, names, outputs=1000)
    assert found == Classes(dict(zip(names, (1, 1, 0), strict=True)), 2, "folders by class")
    assert found.names == ("ant", "cat")
    (tmp_path / "classes.txt").write_text("cat\ndog\nant\n")
    found = classes_of_images(tmp_path, names)
    assert list(found.index.values()) == [0, 0, 2]
    assert found.names == ("cat", "dog", "ant")
    for others in (["cat/1.jpg", "2.jpg"], ["cat/1.jpg"], ["train/1.jpg", "val/2.jpg"]):
        assert not has_classes(tmp_path, others)
        with pytest.raises(UsageError, match="or give something else"):
            classes_of_images(tmp_path, others, instead=", or give something else")
    (tmp_path / "labels.csv").write_text("".join(f"{name},7\n" for name in names))
    assert list(classes_of_images(tmp_path, names).index.values()) == [7, 7, 7]


HEADER = "file,class_index\n"
BAD = {
    "no comma": (f"{HEADER}a.jpg,3\nb.png 305\n", "2 columns in line 3", "got 1: b.png 305"),
    "short": ("file,x,class\na.jpg,1,3\nb.png,305\n", "3 columns in line 3", "got 2"),
    "extra": (f"{HEADER}a.jpg,3,4\n", "2 columns in line 2", "got 3"),
    "no class": (f"{HEADER}a.jpg,\n", "class in line 2", "a.jpg"),
    "negative": (f"{HEADER}a.jpg,-1\n", "line 2", "'-1' for a.jpg"),
    "half": (f"{HEADER}a.jpg,3\n\nb.png,0.5\n", "line 4", "'0.5' for b.png"),
    "huge": (f"{HEADER}a.jpg,{'9' * 30}\n", "line 2", "9" * 30),
    "mixed": (f"{HEADER}a.jpg,3\nb.png,cat\n", "line 3", "'cat' for b.png"),
    "contradiction": (f"{HEADER}a.jpg,3\nb.png,1\n./a.jpg,4\n", "3 in line 2 and 4 in line 4", ""),
    "open quote": (f'{HEADER}a.jpg,3\n"b.png,305\ndeep/c.v2.jpg,0\n', "line 3", "without an end"),
    "quote inside": (f'{HEADER}"a".jpg,3\n', "line 2", "expected after"),
    "huge field": (f"{HEADER}a.jpg,3\n{'x' * 140_000},1\n", "line 3", "131072"),
    "UTF-16 without mark": (f"{HEADER}a.jpg,3\n".encode("utf-16-le"), "line 1", "zero byte"),
    "Latin-1": (f"{HEADER}a.jpg,3\ncaf\xe9.png,1\n".encode("latin-1"), "line 3", "UTF-8"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0", "line 1", "UTF-8"),
    "empty": ("", "line 1", "nothing"),
    "header alone": (HEADER, "none for 3", "a.jpg"),
    "missing": (f"{HEADER}a.jpg,3\n", "none for 2", "b.png"),
    "other header": ("when,where\nnow,here\n", "line 1", "when,where"),
    "one column": ("a.jpg\nb.png\n", "line 1", "a.jpg"),
    "control characters": (f"{HEADER}a.jpg,\x1b[31m\nb.png,1\n", "line 2", r"\x1b[31m"),
}


@pytest.mark.parametrize(("text", "where", "what"), BAD.values(), ids=BAD)
def test_a_row_that_cannot_be_used_is_named_in_one_line(tmp_path, text, where, what):
    with pytest.raises(UsageError) as refused:
        table(tmp_path, text)
    said = str(refused.value)
    assert where in said
    assert what in said
    assert "labels.csv" in said
    assert said.isprintable()
    assert len(said) < 400 + 2 * len(os.fspath(tmp_path))


def test_what_is_remarkable_is_said_once(tmp_path, caplog):
    text = lines(rows=[*ROWS, ("gone.jpg", 7), ("lost.jpg", 8), ("a.jpg", 3)])
    for _ in range(2):
        table(tmp_path, text)
    unknown, repeated = (record.getMessage() for record in caplog.records)
    assert "2 rows are of no image here: line 5, gone.jpg" in unknown
    assert "1 rows are there again: line 7, a.jpg" in repeated
