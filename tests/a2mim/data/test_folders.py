import io
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from a2mim.data.arrays import find_images, photographs
from a2mim.data.augment import CentreCrop
from a2mim.data.folders import (
    DataError,
    Part,
    image_names,
    is_hidden,
    read_crop,
    read_image,
    read_pixels,
    to_rgb,
)
from a2mim.data.limits import Tolerance
from a2mim.data.samples import DatasetSamples, FolderSamples, find_training_files
from a2mim.data.stream import ShardStream, StreamSettings
from a2mim.data.tar import TarSamples, write_shards

SIXTEEN = np.array([0, 255, 256, 1000, 30000, 65279, 65280, 65535], np.uint16)
UPPER = [0, 0, 1, 3, 117, 254, 255, 255]  # v // 256


def png16(colours: int) -> bytes:
    """A PNG of one row of 16-bit pixels, by its specification: Pillow writes none in colour."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[colours]
    row = b"\0" + np.repeat(SIXTEEN[:, None], colours, 1).astype(">u2").tobytes()

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", len(SIXTEEN), 1, 16, kind, 0, 0, 0)
    image = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + image


def tiff(data: bytes, width: int, bits: int, sample_format: int = 1, photometric: int = 1) -> bytes:
    """A TIFF of one grey row, by its specification: Pillow writes neither 12 bits nor signed."""
    tags = [(256, 4, width), (257, 4, 1), (258, 3, bits), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, 8), (277, 3, 1), (278, 4, 1), (279, 4, len(data)), (339, 3, sample_format)]
    data += b"\0" * (len(data) % 2)
    out = b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags))
    for tag, kind, value in tags:
        out += struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", value)
    return out + struct.pack("<I", 0)


def saved(array: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def row(data: bytes) -> list[int]:
    pixels = np.array(read_image(data, "image"))
    assert pixels.shape[0::2] == (1, 3)
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist()


@pytest.mark.parametrize(
    "data",
    [
        *(png16(colours) for colours in (1, 2, 3, 4)),
        saved(SIXTEEN[None], "TIFF"),
        saved(SIXTEEN[None], "PPM"),
        tiff(SIXTEEN.tobytes(), len(SIXTEEN), 16),
    ],
    ids=[
        "png",
        "png with alpha",
        "png in colour",
        "colour and alpha",
        "tiff",
        "pgm",
        "tiff by hand",
    ],
)
def test_sixteen_bits_keep_the_upper_eight(data):
    assert row(data) == UPPER


def test_eight_bits_written_as_sixteen_come_back():
    levels = np.arange(256, dtype=np.uint16)[None]
    assert row(saved(levels * 257, "PNG")) == list(range(256))


def test_big_endian_grey_of_sixteen_bits():
    image = Image.frombytes("I;16B", (len(SIXTEEN), 1), SIXTEEN.astype(">u2").tobytes())
    assert np.array(to_rgb(image, "image"))[0, :, 0].tolist() == UPPER


def test_twelve_bits_of_grey():
    packed = bytes([0x00, 0x00, 0x0F, 0x01, 0x0F, 0xFF])  # 0, 15, 16, 4095
    assert row(tiff(packed, 4, 12)) == [0, 0, 1, 255]
    values = np.array([0, 2048, 4095], ">u2").tobytes()  # of a PGM, whose header says 4095
    assert row(b"P5 3 1 4095\n" + values) == [0, 128, 255]


def test_floats_between_0_and_1():
    values = np.array([[0, 0.001, 0.00197, 0.25, 0.5, 1]], np.float32)
    assert row(saved(values, "TIFF")) == [0, 0, 1, 64, 128, 255]


NAN = np.array([[0.5, np.nan]], np.float32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (saved(np.array([[0, 1.5]], np.float32), "TIFF"), r"floats in \[0, 1\], got 0 to 1.5"),
        (saved(np.array([[-0.1, 1]], np.float32), "TIFF"), r"floats in \[0, 1\], got -0.1 to 1"),
        (saved(NAN, "TIFF"), r"floats in \[0, 1\], got nan"),
        (saved(np.array([[0, 9]], np.int32), "TIFF"), "got signed ones"),
        (tiff(b"\0\0\xff\xff", 2, 16, sample_format=2), "got signed ones"),
        (tiff(b"\0\xff", 2, 8, sample_format=2), "got signed ones"),
        (tiff(b"\0\0\0\0\xff\0\0\0", 2, 32), r"at most 16 bits per channel, got 32 \(mode I\)"),
        (tiff(b"\0\0\xff\xff", 2, 16, photometric=0), "got 0 for white in mode I;16"),
    ],
)
def test_without_a_scale_images_are_refused_by_name(data, message):
    with pytest.raises(DataError, match=rf"cannot read a/b\.tif: \d+ bytes, expected .*{message}"):
        read_image(data, "a/b.tif")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_eight_bits_are_those_of_pillow(mode, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    file = tmp_path / "image.tif"
    Image.fromarray(pixels).convert(mode).save(file)
    image = read_image(file)
    assert image.mode == "RGB"
    with Image.open(file) as opened:
        assert opened.mode == mode
        assert np.array_equal(image, opened.convert("RGB"))
    assert np.array_equal(read_image(file.read_bytes()), image)


def test_transparent_pixels_keep_their_colour():
    pixels = np.full((1, 2, 4), 70, np.uint8)
    pixels[..., 3] = [0, 255]
    assert row(saved(pixels, "PNG")) == [70, 70]


def test_of_several_frames_the_first(tmp_path):
    frames = [Image.new("RGB", (3, 2), (level, level, level)) for level in (10, 200)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert np.array(read_image(tmp_path / "a.webp")).ravel().tolist() == [10] * 18


def test_every_way_in_reads_the_same_pixels(tmp_path):
    """Folder, tar, stream, data set, memory, and one image for measuring."""
    folder = tmp_path / "train"
    (folder / "grey").mkdir(parents=True)
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    for name in ("a.png", "b.tif"):
        Image.fromarray(values).save(folder / "grey" / name)
    expected = torch.from_numpy((values // 256).astype(np.uint8)).expand(3, 8, 8)
    augment = CentreCrop(8, share=1.0)
    write_shards(tmp_path, tmp_path / "shards")

    assert torch.equal(
        FolderSamples(find_training_files(tmp_path), augment, 0).load(0, 0), augment(expected)
    )
    assert torch.equal(TarSamples(tmp_path / "shards", augment, 0).load(1, 0), augment(expected))
    stream = ShardStream(tmp_path / "shards", augment, 0, StreamSettings(2, 1))
    for image in next(iter(stream.epoch(0, 2)))["image"]:
        assert torch.equal(image, augment(expected))
    dataset = [Image.open(folder / "grey" / "a.png")]
    assert torch.equal(DatasetSamples(dataset, augment, 0).load(0, 0), augment(expected))


def test_an_image_of_a_data_set_that_is_refused_counts_as_unreadable():
    dataset = [Image.fromarray(np.full((4, 4), 7.0, np.float32))]
    samples = DatasetSamples(dataset, CentreCrop(4), 0, Tolerance(0, 0))
    with pytest.raises(
        DataError, match=r"image 0 of list: expected floats in \[0, 1\], got 7 to 7"
    ):
        samples.load(0, 0)


@pytest.fixture
def album(tmp_path):
    """Images in folders, behind a link, beside what copying and unpacking leave behind."""
    album = tmp_path / "album"
    for name in ("train/b/2.PNG", "train/b/1.png", "train/a/deep/3.Tiff", "elsewhere/4.jpg"):
        file = tmp_path / name if "elsewhere" in name else album / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(file)
    (album / "train" / "a" / "link").symlink_to(tmp_path / "elsewhere")
    (album / "train" / "b" / "circle").symlink_to(album)
    for name in (
        "b/._1.png",
        "b/.cache/5.png",
        "__MACOSX/b/._1.png",
        "__MACOSX/6.png",
        "b/.DS_Store",
    ):
        file = album / "train" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"no image")
    (album / "train" / "b" / "notes.txt").write_bytes(b"")
    return album


NAMES = ["a/deep/3.Tiff", "a/link/4.jpg", "b/1.png", "b/2.PNG"]


def test_which_files_are_images(album):
    assert image_names(album / "train") == NAMES
    for name in (".", ".DS_Store", "._a.jpg", "__MACOSX"):
        assert is_hidden(name)
    assert not is_hidden("a.b.jpg")


def test_every_way_in_finds_the_same_images(album, tmp_path):
    model = torch.nn.Identity()
    model.pretrained_cfg = {"input_size": (3, 8, 8)}
    assert [str(p.relative_to(album / "train")) for p in find_images(album / "train", 9)] == NAMES
    assert photographs(album / "train", model)[1] == NAMES
    files = find_training_files(album)
    assert list(files.names) == [f"train/{name}" for name in NAMES]
    assert files.classes == ("a", "b")
    write_shards(album, tmp_path / "shards")
    shards = TarSamples(tmp_path / "shards", CentreCrop(4), 0)
    assert sorted(shards.names) == [f"train/{name}" for name in NAMES]


def test_hidden_members_of_shards_are_not_images(album, tmp_path):
    import tarfile

    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "all.tar", "w") as archive:
        for folder, _, names in os.walk(album / "train"):
            for name in names:
                path = os.path.join(folder, name)
                archive.add(path, "./" + os.path.relpath(path, album))
    shards = TarSamples(tmp_path / "shards", CentreCrop(4), 0)
    assert sorted(shards.names) == ["./train/a/deep/3.Tiff", "./train/b/1.png", "./train/b/2.PNG"]


@pytest.mark.parametrize("marks", [("config.json", "rows.csv"), (".a2mim.json",)])
def test_figures_of_runs_are_not_images(album, marks):
    """Nor of one that is at work, as deep as they lie; a folder that is asked for is looked at."""
    before, run = image_names(album), album / "results" / "run"
    (run / "deep").mkdir(parents=True)
    for name in ("figure.png", "deep/figure.png", *marks):
        (run / name).touch()
    assert image_names(album) == before
    assert image_names(run) == ["deep/figure.png", "figure.png"]
    (run / marks[0]).unlink()
    assert len(image_names(album)) == len(before) + 2


def test_links_from_each_folder_to_all_others_have_an_end(tmp_path, caplog):
    """As in /proc; the number of ways through 20 folders has 19 digits."""
    set_ = tmp_path / "set"
    for k in range(20):
        (set_ / f"{k:02d}").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(set_ / f"{k:02d}" / "1.png")
        for other in range(20):
            (set_ / f"{k:02d}" / f"to{other:02d}").symlink_to(set_ / f"{other:02d}")
        (set_ / f"{k:02d}" / "out").symlink_to(tmp_path)
    assert image_names(set_) == [f"{k:02d}/1.png" for k in range(20)]
    assert "links to folders that are looked at anyway" in caplog.text
    assert caplog.text.rstrip().endswith("are left out (420): 00/out/")


def test_a_folder_that_two_links_lead_to_is_looked_at_once(tmp_path):
    """By the first of them in order; what lies in the folder itself comes before both."""
    album, pool = tmp_path / "album", tmp_path / "pool"
    for name in ("cats/1.png", "cats/tabby/2.png"):
        (pool / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(pool / name)
    album.mkdir()
    (album / "b").symlink_to(pool / "cats" / "tabby")
    (album / "a").symlink_to(pool / "cats")
    assert image_names(album) == ["a/1.png", "a/tabby/2.png"]


def test_names_that_are_no_text_are_left_out_and_named(tmp_path, caplog):
    for name in (b"1.png", b"2.png", b"\xff\xfe.png"):
        try:
            (tmp_path / os.fsdecode(name)).write_bytes(b"")
        except OSError:
            pytest.skip("this disk takes no such names")
    assert image_names(tmp_path) == ["1.png", "2.png"]
    assert r"no text in UTF-8 (1), such as \udcff\udcfe.png" in caplog.text


def test_a_link_to_nothing_is_an_image_that_cannot_be_read(album):
    (album / "train" / "b" / "0.jpg").symlink_to(album / "gone.jpg")
    assert image_names(album / "train") == [*NAMES[:2], "b/0.jpg", *NAMES[2:]]
    with pytest.raises(DataError, match=r"cannot read .*b/0\.jpg"):
        read_image(album / "train" / "b" / "0.jpg")


def test_folders_that_cannot_be_listed(tmp_path):
    with pytest.raises(DataError, match=r"expected a folder of images, found none at .*nowhere"):
        image_names(tmp_path / "nowhere")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="found none at"):
        image_names(tmp_path / "a.png")


def corner(height: int = 6, width: int = 10) -> np.ndarray:
    """A picture that no turn or mirror image of it equals."""
    ramp = np.arange(height * width, dtype=np.uint8).reshape(height, width) * 4
    return np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=2)


SUFFIXES = {
    **{".jpg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".JPEG": "JPEG", ".gif": "GIF"},
    **{".avif": "AVIF", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".TIFF": "TIFF"},
    **{".png": "PNG", ".ppm": "PPM", ".pgm": "PPM", ".tga": "TGA", ".jp2": "JPEG2000"},
}


def test_every_kind_of_file_is_found_and_read(tmp_path):
    expected = []
    for suffix, kind in SUFFIXES.items():
        Image.init()
        if kind not in Image.SAVE:
            continue
        name = f"фото é.v2{suffix}"
        Image.new("RGB", (32, 24), (200, 200, 200)).save(tmp_path / name, kind)
        expected.append(name)
    for left in ("._a.jpg", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / left).write_bytes(b"no image")
    (tmp_path / "@eaDir").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "@eaDir" / "thumb.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert image_names(tmp_path) == sorted(expected)
    for name in expected:
        assert abs(np.asarray(read_image(tmp_path / name)).astype(int) - 200).max() <= 4


STANDING = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: p.transpose(1, 0, 2)[:, ::-1],
    7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda p: p.transpose(1, 0, 2)[::-1],
}
"""From stored to shown pixels, by the EXIF standard: where row 0 and column 0 are."""


def ramp_jpeg(height: int, width: int, orientation: int = 1) -> bytes:
    """Red tells the column of the upright picture, green the row."""
    stored = (width, height) if orientation < 5 else (height, width)
    x, y = np.linspace(0, 255, width), np.linspace(0, 255, height)
    upright = np.stack([*np.meshgrid(x, y), np.full((height, width), 128)], axis=2)
    back = {6: 8, 8: 6}.get(orientation, orientation)  # all others are their own inverses
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image = Image.fromarray(STANDING[back](upright).round().astype(np.uint8))
    assert image.size == stored
    image.save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", STANDING)
def test_parts_of_large_jpegs_are_reduced_where_they_are(orientation):
    """By n, so that the shorter edge keeps enough pixels; moved by half a reduced pixel at most."""
    height, width = 301, 445
    data = ramp_jpeg(height, width, orientation)
    whole = np.asarray(read_image(data)).astype(float)
    assert whole.shape[:2] == (height, width)
    for box in [(0, 0, 301, 445), (3, 6, 160, 163), (141, 280, 160, 165)]:
        top, left, high, wide = box
        expected = whole[top : top + high, left : left + wide]
        for least in (None, 81, 80, 40, 20):
            n = next((n for n in (8, 4, 2) if least and min(high, wide) >= n * least), 1)
            part = np.asarray(read_image(data, part=Part(lambda *_, box=box: box, least)))
            assert abs(np.array(part.shape[:2]) - np.array([high, wide]) / n).max() <= 0.75
            moved = abs(part.mean((0, 1)) - expected.mean((0, 1)))[:2]
            per_pixel = 255 / np.array([width, height])
            assert (moved <= per_pixel * (0.5 if n == 1 else n / 2) + 0.5).all()
            if n == 1:
                assert np.array_equal(part, expected)


def test_the_box_is_that_of_the_upright_picture():
    asked = []

    def box(height, width):
        asked.append((height, width))
        return 0, 0, height, width

    for orientation in STANDING:
        read_image(ramp_jpeg(64, 96, orientation), part=Part(box, 8))
    assert set(asked) == {(64, 96)}


@pytest.mark.parametrize("kind", ["PNG", "npy"])
def test_parts_of_other_files_are_whole(kind):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 80, 3), np.uint8)
    file = io.BytesIO()
    np.save(file, pixels) if kind == "npy" else Image.fromarray(pixels).save(file, kind)
    part = read_image(file.getvalue(), part=Part(lambda *_: (8, 16, 32, 40), 4))
    assert np.array_equal(part, pixels[8:40, 16:56])


JPEGS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "low": {"quality": 30, "optimize": True},
    "RGB": {"keep_rgb": True},
    "CMYK": {"mode": "CMYK"},
    "grey": {"mode": "L"},
    "turned": {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
    "with a remark": {"after": b"\xff\xd8 thumbnail"},
}


@pytest.mark.parametrize("least", [None, 16])
@pytest.mark.parametrize("kind", JPEGS)
def test_crops_are_parts_to_the_bit_with_simplejpeg_and_without(kind, least, monkeypatch):
    simplejpeg = pytest.importorskip("simplejpeg")
    decoded = []
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a: decoded.append(a) or decode(*a))
    options = dict(JPEGS[kind])
    mode, after = options.pop("mode", "RGB"), options.pop("after", b"")
    levels = np.random.default_rng(0).integers(0, 255, (9, 11, 3), np.uint8)
    picture = Image.fromarray(levels).resize((101, 67), Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    picture.save(file, "JPEG", **{"quality": 90} | options)
    data = file.getvalue() + after
    for box in [(0, 0, 67, 67), (3, 5, 40, 61), (30, 1, 31, 20)]:
        part = Part(lambda *_, box=box: box, least)
        expected = np.asarray(read_image(data, part=part))
        assert np.array_equal(read_crop(data, part)[..., :3], expected)
    quick = kind not in ("CMYK", "grey", "turned")
    assert len(decoded) == quick * (3 if least is None else 1)  # the others are reduced
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert np.array_equal(read_crop(data, part)[..., :3], expected)


def test_a_crop_of_a_jpeg_that_is_cut_short_is_unreadable():
    data = ramp_jpeg(256, 256)
    with pytest.raises(DataError, match="truncated"):
        read_crop(data[: len(data) // 2], Part(lambda *_: (0, 0, 64, 64)))


def test_a_reduced_jpeg_that_is_cut_short_is_unreadable():
    data = ramp_jpeg(256, 256)
    with pytest.raises(DataError, match="truncated"):
        read_image(data[: len(data) // 2], part=Part(lambda *_: (0, 0, 64, 64), 8))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STANDING)
def test_pictures_stand_upright(orientation, kind, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(corner()).save(tmp_path / "a", kind, exif=exif, **options)
    expected = STANDING[orientation](corner())
    assert np.array_equal(read_image(tmp_path / "a"), expected)
    assert np.array_equal(read_image((tmp_path / "a").read_bytes()), expected)
    grey = np.asarray(Image.fromarray(expected).convert("L"))
    assert np.array_equal(read_pixels(tmp_path / "a", 1), grey)
    with Image.open(tmp_path / "a") as opened:  # of torchvision's data sets, not yet loaded
        assert np.array_equal(to_rgb(opened, "a"), expected)
    with Image.open(tmp_path / "a") as opened:  # or converted
        assert np.array_equal(to_rgb(opened.convert("RGB"), "a"), expected)


def test_sixteen_bits_of_grey_stand_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) << 8
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(
        np.asarray(read_image(tmp_path / "a.png"))[..., 0], np.rot90(values, -1) >> 8
    )


def test_damaged_exif_says_nothing(tmp_path):
    Image.fromarray(corner()).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(read_image(tmp_path / "a.png"), corner())


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_arrays_are_pictures(tmp_path):
    for name, array in {
        "bytes": corner(),
        "channels first": np.moveaxis(corner(), 2, 0),
        "sixteen": corner().astype(np.uint16) * 256 + 255,
        "floats": corner() / 255,
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
        assert np.array_equal(read_image(tmp_path / f"{name}.npy"), corner()), name
        assert np.array_equal(read_image(npy(array)), corner()), name
    assert len(image_names(tmp_path)) == 4
    grey = np.stack([corner()[..., 0]] * 3, axis=2)
    assert np.array_equal(read_image(npy(corner()[..., 0])), grey)
    Image.fromarray(corner()).save(tmp_path / "a.png")
    assert image_names(tmp_path) == ["a.png"]  # arrays beside pictures are something else


def test_many_channels(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    rng = np.random.default_rng(0)
    bytes_HWC = rng.integers(0, 256, (5, 7, 6), np.uint8)
    expected = torch.from_numpy(bytes_HWC.astype(np.float32)).permute(2, 0, 1) / 255
    np.save(tmp_path / "a.npy", bytes_HWC)
    np.save(tmp_path / "b.npy", np.moveaxis(bytes_HWC, 2, 0))
    np.save(tmp_path / "c.npy", bytes_HWC.astype(np.uint16) * 257)
    grey = {"photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "d.tif", bytes_HWC, planarconfig="contig", **grey)
    first = np.moveaxis(bytes_HWC, 2, 0)
    tifffile.imwrite(tmp_path / "e.tif", first, planarconfig="separate", **grey)
    for name in ("a.npy", "b.npy", "c.npy", "d.tif", "e.tif"):
        for source in (tmp_path / name, (tmp_path / name).read_bytes()):
            found = read_pixels(source, 6)
            assert found.dtype == torch.float32
            assert torch.allclose(found, expected, rtol=0, atol=1e-7), name
    reflectance = rng.normal(0, 3, (5, 7, 6)).astype(np.float32)
    assert torch.equal(
        read_pixels(npy(reflectance), 6), torch.from_numpy(reflectance).permute(2, 0, 1)
    )
    tifffile.imwrite(tmp_path / "f.tif", (corner() / 255).astype(np.float32), photometric="rgb")
    assert np.array_equal(read_image(tmp_path / "f.tif"), corner())


def test_transparency_is_a_channel_for_networks_of_four(tmp_path):
    four = np.concatenate([corner(), 255 - corner()[..., :1]], axis=2)
    Image.fromarray(four).save(tmp_path / "a.png")
    expected = torch.from_numpy(four.astype(np.float32)).permute(2, 0, 1) / 255
    assert torch.allclose(read_pixels(tmp_path / "a.png", 4), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("data", "channels", "message"),
    [
        (saved(corner(), "PNG"), 4, "expected 4 channels, got 3"),
        (saved(corner(), "TIFF"), 5, "expected 5 channels, got an array 6 x 10 x 3"),
        (npy(corner()), 4, "expected 4 channels, got an array 6 x 10 x 3"),
        (npy(np.zeros((4, 9, 4))), 4, "array of 4 x 9 x 4"),
        (npy(np.zeros((2, 3, 4, 5))), 3, "got 2 x 3 x 4 x 5"),
        (npy(np.zeros((0, 4, 3), np.uint8)), 3, "got 0 x 4 x 3"),
        (npy(np.zeros((4, 4, 3), np.int16)), 3, "got int16"),
        (npy(np.full((4, 4, 3), 1.5)), 3, "got 1.5 to 1.5"),
        (npy(np.full((4, 5, 6), np.nan)), 6, "finite"),
        (npy(np.array([{}, 1], dtype=object)), 3, "allow_pickle=False"),
        (npy(corner())[:-5], 3, "cannot read x"),
        (b"", 3, "0 bytes"),
        (b"\xff\xd8\xff\xe0", 1, "4 bytes"),
    ],
)
def test_other_channels_and_numbers_are_refused_by_name(data, channels, message):
    with pytest.raises(DataError, match=r"cannot read x: ") as refused:
        read_pixels(data, channels, "x")
    assert message in str(refused.value)


def test_arrays_and_pictures_that_would_fill_the_memory(tmp_path, monkeypatch):
    bomb = npy(np.zeros((2, 2, 3), np.uint8)).replace(b"(2, 2, 3), ", b"(99999, 99999, 3), ")
    (tmp_path / "a.npy").write_bytes(bomb)
    with pytest.raises(DataError, match=r"cannot read .*a\.npy"):
        read_image(tmp_path / "a.npy")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match="60 pixels"):
        read_image(saved(corner(), "PNG"), "x")


def test_damaged_files_are_refused_in_one_line(tmp_path):
    """Bytes changed anywhere, and in the tags of TIFF: an image, or an error of one line."""
    rng = np.random.default_rng(0)
    whole = [saved(corner(), kind) for kind in ("TIFF", "PNG", "JPEG", "GIF", "WEBP", "BMP")]
    refused = 0
    for _ in range(400):
        data = bytearray(whole[rng.integers(len(whole))])
        tags = len(data) - int(rng.integers(1, min(len(data), 200)))
        for place in (tags, int(rng.integers(len(data))))[: rng.integers(1, 3)]:
            data[place] = rng.integers(256)
        file = tmp_path / "x.tif"
        file.write_bytes(data[: rng.integers(len(data))] if rng.random() < 0.2 else data)
        said = ""
        try:
            read_image(file)
        except DataError as error:
            said = str(error)
        assert said.isprintable()
        refused += bool(said)
    assert refused > 50


def test_an_image_that_claims_to_be_huge():
    header = b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, 60000, 60000, 1, 24, *[0] * 6)
    with pytest.raises(DataError, match=r"cannot read 0\.bmp"):
        read_image(header, "0.bmp")


def test_names_of_files_stay_in_the_line(tmp_path):
    (tmp_path / "a\nb\x1b[31m.jpg").write_bytes(b"no image")
    with pytest.raises(DataError) as refused:
        read_image(tmp_path / "a\nb\x1b[31m.jpg")
    assert r"a\nb\x1b[31m.jpg" in str(refused.value)


def test_a_folder_inside_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    (tmp_path / "open").mkdir()
    (tmp_path / "shut").mkdir()
    list_folder = os.scandir

    def refused(path):
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", path)
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(DataError, match=r"cannot read it: .*Permission denied: .*shut"):
        image_names(tmp_path)
