import numpy as np
import pytest
from PIL import Image

from a2mim.data import sources as sources_module
from a2mim.data.arrays import drawn
from a2mim.data.augment import CropAndFlip
from a2mim.data.folders import DataError
from a2mim.data.limits import Tolerance
from a2mim.data.sources import (
    classes_of,
    folder_has_classes,
    folder_images,
    known_classes,
    named_images,
    only_number,
    photographs_with_classes,
    some,
    training_samples,
)
from a2mim.data.tar import write_shards
from a2mim.messages import UsageError


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "a").mkdir(parents=True)
    for k, name in enumerate(["a/0.png", "a/1.PNG", "2.png"]):
        Image.new("L", (4, 4), k).save(folder / name, format="png")
    (folder / "labels.csv").write_text("file,class_index\na/0.png,3\na/1.PNG,7\n2.png,5\n")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_folder_is_searched_in_depth(photos):
    sources = folder_images(photos, 10, seed=0, truth=True)
    assert [(s.name, s.truth) for s in sources] == [("2.png", 5), ("a/0.png", 3), ("a/1.PNG", 7)]
    assert [s.read().getpixel((0, 0)) for s in sources] == [(2, 2, 2), (0, 0, 0), (1, 1, 1)]
    assert [s.truth for s in folder_images(photos, 10, seed=0, truth=False)] == [None] * 3


def test_fewer_are_drawn_by_seed(photos):
    drawn = {
        tuple(s.name for s in folder_images(photos, 2, seed, truth=False)) for seed in range(9)
    }
    assert len(drawn) == 3
    assert all(list(names) == sorted(names) for names in drawn)
    again = folder_images(photos, 2, 0, truth=False)
    assert [s.name for s in again] == [s.name for s in folder_images(photos, 2, 0, truth=False)]


def test_what_an_image_is_known_by(photos):
    """Its name, its class and its bytes, of which any may change."""
    before = [source.identity() for source in folder_images(photos, 9, 0, truth=True)]
    assert [(name, truth) for name, truth, _ in before] == [
        ("2.png", 5),
        ("a/0.png", 3),
        ("a/1.PNG", 7),
    ]
    Image.new("L", (4, 4), 99).save(photos / "2.png")
    after = [source.identity() for source in folder_images(photos, 9, 0, truth=True)]
    assert after[0][2] != before[0][2]
    assert after[1:] == before[1:]
    (gone, *_) = folder_images(photos, 9, 0, truth=False)
    (photos / "2.png").unlink()
    with pytest.raises(DataError, match=r"cannot read .*2\.png"):
        gone.identity()
    one, two = (source.identity() for source in named_images("digits", 2, 0))
    assert one[2] != two[2]


def test_some():
    assert some(range(5), 9, seed=0) == [0, 1, 2, 3, 4]
    chosen = some(range(100), 10, seed=0)
    assert chosen == sorted(set(chosen))
    assert chosen != list(range(10))


def test_digits_by_name():
    sources = named_images("digits", 3, seed=0)
    assert len(sources) == 3
    assert sources[0].read().size == (32, 32)
    assert all(0 <= s.truth < 10 for s in sources)
    pixels = np.array(sources[0].read())
    assert pixels.shape == (32, 32, 3)
    with pytest.raises(DataError, match=r"expected a set of digits, cifar10, .*, got 'imagenet'"):
        named_images("imagenet", 3, seed=0)


def test_sets_of_torchvision_by_name(monkeypatch):
    items = [(Image.new("L", (9, 9), k), k % 2) for k in range(10)]

    class Stand(list):
        targets = property(lambda self: [label for _, label in self])

    monkeypatch.setattr(sources_module, "torchvision_set", lambda name, split: Stand(items))
    sources = named_images("cifar10", 4, seed=0)
    assert len(sources) == 4
    for source in sources:
        k = int(source.name.removeprefix("test/"))
        assert source.truth == k % 2
        assert source.read().getpixel((0, 0)) == (k, k, k)


def test_numbers_of_classes(monkeypatch):
    assert classes_of("digits") == 10

    class Stand:
        targets = (0, 2, 1)

    monkeypatch.setattr(sources_module, "torchvision_set", lambda name, split: Stand)
    assert classes_of("cifar10") == 3
    Stand.targets = (0, -1)
    assert classes_of("cifar10") is None


def test_bad_folders(photos, tmp_path):
    with pytest.raises(DataError, match="found none at"):
        folder_images(tmp_path / "nowhere", 2, 0, truth=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"at least 2 images in .*, found 0"):
        folder_images(tmp_path / "empty", 2, 0, truth=False)
    (photos / "labels.csv").write_text("file,class_index\n2.png,1\na/0.png,x\na/1.PNG,1\n")
    with pytest.raises(UsageError, match=r"line 3 of .*'x'"):
        folder_images(photos, 2, 0, truth=True)
    (photos / "labels.csv").unlink()
    with pytest.raises(UsageError, match="expected classes in"):
        folder_images(photos, 2, 0, truth=True)


def test_images_that_cannot_be_read_are_left_out_and_named(photos, caplog):
    """The next of the draw takes their place, so that there are as many; too many are refused."""
    sound = {seed: folder_images(photos, 2, seed, truth=False) for seed in range(9)}
    (photos / "2.png").write_bytes((photos / "a/0.png").read_bytes()[:40])
    for seed, before in sound.items():
        sources = folder_images(photos, 2, seed, truth=True)
        assert [(s.name, s.truth) for s in sources] == [("a/0.png", 3), ("a/1.PNG", 7)]
        if "2.png" not in [source.name for source in before]:
            assert [s.name for s in sources] == [s.name for s in before]
    (said,) = {record.getMessage() for record in caplog.records}
    assert "1 so far" in said
    assert f"{photos / '2.png'}: " in said
    (photos / "a/1.PNG").write_bytes(b"")
    with pytest.raises(DataError, match=r"at least 2 images in .*, 1 can"):
        folder_images(photos, 9, 0, truth=False)
    with pytest.raises(DataError, match=r"at most 1 unreadable images among 3 .* got 2"):
        drawn(photos, ["a/0.png", "a/1.PNG", "2.png"], 9, 0, Tolerance(1, 0))


def test_class_folders_by_any_way(tmp_path):
    """``--images`` of such a folder, and ``--data folder:`` of train and val in it."""
    for split in ("train", "val"):
        for klass in ("newt", "cat", "ant")[: 3 if split == "train" else 2]:
            (tmp_path / split / klass).mkdir(parents=True)
            Image.new("L", (4, 4), 7).save(tmp_path / split / klass / "0.png")
    data = f"folder:{tmp_path}"
    sources = named_images(data, 9, 0)
    assert [(s.name, s.truth) for s in sources] == [("val/cat/0.png", 1), ("val/newt/0.png", 2)]
    assert [s.read().getpixel((0, 0)) for s in sources] == [(7, 7, 7)] * 2
    assert (classes_of(data), known_classes(None, data)) == (3, 3)
    images = tmp_path / "train"
    assert folder_has_classes(images)
    assert not folder_has_classes(tmp_path)
    sources = folder_images(images, 9, 0, truth=True)
    assert [s.truth for s in sources] == [0, 1, 2]
    assert known_classes(images, "") == 3
    assert [only_number(n) for n in ((3, 0, 3), (3, 4), (0,), ())] == [3, None, None, None]


READERS = {
    "measuring": lambda folder: [s.truth for s in folder_images(folder, 9, 0, truth=True)],
    "accuracy": lambda folder: photographs_with_classes(folder, CropAndFlip(4)).labels_I.tolist(),
}


@pytest.mark.parametrize("reader", READERS)
def test_classes_that_contradict_one_another(photos, reader):
    read = READERS[reader]
    names = [source.name for source in folder_images(photos, 9, 0, truth=False)]
    rows = "".join(f"{name},{k}\n" for k, name in enumerate(names))
    table = photos / "labels.csv"
    table.write_text(f"file,class_index\n{rows}{names[1]},1\n")  # said again, not otherwise
    assert read(photos) == [0, 1, 2]
    table.write_text(f"file,class_index\n{rows}{names[1]},7\n")
    with pytest.raises(
        UsageError,
        match=rf"one class for {names[1]} in .*labels\.csv, got 1 in line 3 and 7 in line 5",
    ):
        read(photos)
    table.write_text(f"file,class_index\n{rows}gone.png,1\ngone.png,2\n")
    with pytest.raises(UsageError, match=r"one class for gone\.png .* 1 in line 5 and 2 in line 6"):
        read(photos)
    table.write_text(f"file,class_index\n{rows}gone.png,-1\n")
    with pytest.raises(UsageError, match=r"line 5 of .*-1.* gone\.png"):
        read(photos)
    table.write_text(f"file,class_index\n{rows}gone.png\n")
    with pytest.raises(UsageError, match=r"line 5 of .* gone\.png"):
        read(photos)


@pytest.mark.parametrize("kind", ["folder", "tar", "stream"])
def test_images_to_train_on(photos, tmp_path, kind):
    """All kinds take the same tolerance: here for the one image of three that is damaged."""
    (photos / "2.png").write_bytes(b"no image")
    write_shards(photos, tmp_path / "tars", per_shard=3)
    where = photos if kind == "folder" else tmp_path / "tars" / "shard-{000000..000000}.tar"

    def read(tolerance):
        options = {"images": 2, "buffer": 1} if kind == "stream" else {}
        options |= {"tolerance": tolerance} if tolerance else {}
        samples = training_samples(f"{kind}:{where}", CropAndFlip(4), 0, **options)
        if kind == "stream":
            assert samples.settings.buffer == 1
            assert len(next(iter(samples.epoch(0, 2)))["image"]) == 2
        else:
            assert len([samples.load(k, 0) for k in range(3)]) == 3
        assert samples.damage.count() == 1

    read(None)
    read(Tolerance(0, 1.0))
    with pytest.raises(DataError, match="or allow a larger share than --unreadable 0 "):
        read(Tolerance(0, 0.0))


def test_training_images_that_cannot_be_named(monkeypatch):
    given = {}
    monkeypatch.setattr(sources_module, "named_samples", lambda *a, **options: given | options)
    found = training_samples("svhn", CropAndFlip(4), 0, tolerance=Tolerance(3))
    assert found == {"unlabelled": True, "tolerance": Tolerance(3)}
    with pytest.raises(UsageError, match=r"expected the number of images in stream:a\.tar"):
        training_samples("stream:a.tar", CropAndFlip(4), 0)
    with pytest.raises(ValueError, match="expected numbers of at least 1"):
        training_samples("stream:a.tar", CropAndFlip(4), 0, images=5, buffer=0)
    with pytest.raises(UsageError, match="expected --data NAME"):
        training_samples("shards:a.tar", CropAndFlip(4), 0)
