import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import t
from timm import create_model

from interactions.features.spectrum import (
    log_amplitudes,
    spectrum,
    spectrum_rows,
    summarised,
    too_small,
    variances,
)
from interactions.networks.layers import residual_stream, stream_names

GOLDEN = {
    14: ([0, 2.301322, -0.134811, -1.795283, -1.933456, -1.973273, -2.147294], 0.51465234),
    7: ([0, -0.238305, -2.650817, -2.610797], 0.39374542),
    8: ([0, 0.672316, -2.175094, -2.43585], 0.45005818),
}
"""Of the official tool: section 6.6 of the specification."""


def make_model(name="test_vit", **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_model(name, num_classes=5, **options).eval()


def make_images(size=64, count=7):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("side", GOLDEN)
def test_golden_vectors(side):
    b, c, i, j = torch.meshgrid(
        *[torch.arange(n).double() for n in (2, 3, side, side)], indexing="ij"
    )
    maps = torch.sin(0.3 * (b + 1) * i + 0.2 * (c + 1) * j) + 0.1 * torch.cos(1.7 * i * j + c)
    deltas, variance = GOLDEN[side]
    np.testing.assert_allclose(log_amplitudes(maps).mean(dim=0), deltas, atol=6e-7)
    assert float(variances(maps).mean()) == pytest.approx(variance, abs=6e-9)


@pytest.mark.parametrize("side", [3, 10, 13])
def test_log_amplitudes_against_the_whole_transform(side):
    maps = torch.randn(2, 5, side, side, generator=torch.Generator().manual_seed(0))
    spectra = torch.fft.fft2(maps.double()).roll((side // 2, side // 2), dims=(2, 3))
    logs = (spectra.abs() + 1e-6).log().mean(dim=1)
    diagonal = logs.diagonal(dim1=1, dim2=2)[:, side // 2 :]
    torch.testing.assert_close(log_amplitudes(maps), diagonal - diagonal[:, :1])


def test_a_wave_has_its_frequency():
    steps = torch.arange(12).double()
    wave = torch.cos(2 * torch.pi * 4 * (steps[:, None] + steps) / 12)[None, None]
    deltas = log_amplitudes(wave + 1)[0]
    # A constant 1 has amplitude 144, a wave half of that, and nothing else is there.
    assert float(deltas[4]) == pytest.approx(np.log(0.5), abs=1e-6)
    assert (deltas[[1, 2, 3, 5]] < -18).all()
    assert float(variances(wave)[0]) == pytest.approx(0.5 * 144 / 143)


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("test_vit", {"img_size": 64}, 64),
        ("test_resnet", {}, 96),
        ("test_convnext", {}, 96),
        (
            "swin_tiny_patch4_window7_224",
            {
                "img_size": 32,
                "window_size": 4,
                "embed_dim": 16,
                "depths": (2, 2),
                "num_heads": (1, 2),
            },
            32,
        ),
    ],
)
def test_table_against_maps_kept_in_memory(name, options, size):
    model, images = make_model(name, **options), make_images(size)
    kept = {}
    with torch.inference_mode(), residual_stream(model, lambda n, x: kept.update({n: x.clone()})):
        model(images)
    frame = spectrum(model, [images])
    names = stream_names(model)
    assert tuple(frame.layer.unique()) == names
    for index, layer in enumerate(names):
        rows = frame[(frame.layer == layer) & (frame.measure == "delta log amplitude")]
        maps = kept[layer]
        side = maps.shape[2]
        values = log_amplitudes(maps).numpy()
        assert rows.k.tolist() == list(range(side - side // 2))
        assert rows.position.iloc[-1] == 1
        np.testing.assert_allclose(rows.frequency, 2 * rows.k.to_numpy(float) / side)
        assert (rows["index"] == index).all()
        assert (rows.depth == index / (len(names) - 1)).all()
        assert (rows.images == 7).all()
        np.testing.assert_allclose(rows.value, values.mean(axis=0), atol=1e-9)
        half = t.ppf(0.975, 6) * values.std(axis=0, ddof=1) / 7**0.5
        np.testing.assert_allclose(rows.high, values.mean(axis=0) + half, atol=1e-9)
        row = frame[(frame.layer == layer) & (frame.measure == "variance")].iloc[0]
        loops = np.mean([x.numpy().astype(float).var(ddof=1) for m in maps for x in m])
        assert row.value == pytest.approx(loops, rel=1e-9)
        assert row.cells == side


def test_batches_do_not_matter():
    model, images = make_model(img_size=64).double(), make_images().double()
    whole = spectrum(model, [images])
    for sizes in ([1] * 7, [3, 4]):
        parts = spectrum(model, images.split(sizes))
        numbers = ["value", "low", "high"]
        np.testing.assert_allclose(parts[numbers], whole[numbers], atol=1e-10)
    some = spectrum(model, [images], layers=["blocks.2/mlp"])
    expected = whole[whole.layer == "blocks.2/mlp"].reset_index(drop=True)
    assert some.equals(expected)


@pytest.mark.parametrize("size", [None, 2])
def test_rows_of_every_image_and_the_table_from_them(size):
    model, images, names = make_model("test_resnet"), make_images(96), list("abcdefg")
    layers = ["layer4.0", "stem"]  # of 6 and 24 cells
    batches = images.split([3, 4])
    parts = list(spectrum_rows(model, batches, layers=layers, names=names, batch_size=size))
    assert [len(part) for part in parts] == [6, 8]
    rows = pd.concat(parts, ignore_index=True)
    assert rows["image"].tolist() == [name for name in names for _ in layers]
    assert rows["layer"].tolist() == ["stem", "layer4.0"] * 7
    assert set(rows["maps"]) == {len(stream_names(model))}
    kept = {}
    with torch.inference_mode(), residual_stream(model, lambda n, x: kept.update({n: x.clone()})):
        model(images)
    for layer, of in rows.groupby("layer"):
        deltas = log_amplitudes(kept[layer])[:, 1:].numpy()
        columns = [f"k{k}" for k in range(1, deltas.shape[1] + 1)]
        np.testing.assert_allclose(of[columns], deltas, atol=1e-4)
        np.testing.assert_allclose(of["variance"], variances(kept[layer]), rtol=1e-5)
        assert of.drop(columns=columns).filter(regex="^k").isna().all(axis=None)
    frame = summarised(iter(parts))
    pd.testing.assert_frame_equal(frame, summarised([rows]))
    assert frame["layer"].drop_duplicates().tolist() == ["stem", "layer4.0"]
    for layer, of in frame.groupby("layer"):
        mine = rows[rows["layer"] == layer]
        means = [0, *(mine[f"k{k}"].mean() for k in of["k"].dropna() if k), mine["variance"].mean()]
        np.testing.assert_allclose(of["value"], means, rtol=1e-12)


def test_a_batch_waits_once_for_its_numbers(monkeypatch):
    waits, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: waits.append(self.shape) or cpu(self))
    (part,) = spectrum_rows(make_model(img_size=64), [make_images()], batch_size=4)
    assert len(waits) == 1
    assert len(part) == 7 * len(stream_names(make_model(img_size=64)))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "model"])
def test_arithmetic_is_that_of_the_network_only(precision):
    model, images = make_model(img_size=64), make_images()
    exact, found = (spectrum(model, [images], precision=p) for p in ("float32", precision))
    np.testing.assert_allclose(found["value"], exact["value"], atol=0.1, rtol=0.05)
    assert (found["value"].tolist() == exact["value"].tolist()) == (precision != "bfloat16")
    with pytest.raises(ValueError, match="precision"):
        spectrum(model, [images], precision="half")


def test_tokens_lie_on_their_grid():
    """A network whose tokens are its pixels has the spectrum of the image."""
    model = make_model(
        "vit_tiny_patch16_224",
        img_size=14,
        patch_size=1,
        in_chans=4,
        embed_dim=4,
        num_heads=1,
        depth=1,
    )
    proj = model.patch_embed.proj
    proj.weight.data = torch.eye(4)[:, :, None, None]
    proj.bias.data.zero_()
    model.pos_embed.data.zero_()
    images = torch.randn(3, 4, 14, 14, generator=torch.Generator().manual_seed(0))
    frame = spectrum(model, [images], layers=["stem"])
    deltas = frame[frame.measure == "delta log amplitude"].value
    np.testing.assert_allclose(deltas, log_amplitudes(images).mean(dim=0), atol=1e-6)


def test_bad_input():
    model, images = make_model(img_size=64), make_images()
    with pytest.raises(ValueError, match="eval mode"):
        spectrum(make_model(img_size=64).train(), [images])
    with pytest.raises(ValueError, match="at least one batch of images, got none"):
        spectrum(model, [])
    with pytest.raises(ValueError, match=r"layers of stem, .*, got \['blocks\.0'\]"):
        spectrum(model, [images], layers=["blocks.0"])
    with pytest.raises(ValueError, match="stem: expected finite maps"):
        spectrum(model, [images * torch.nan])
    with pytest.raises(ValueError, match=r"layer3\.0: expected square maps .* got \(7, .*, 2, 2\)"):
        spectrum(make_model("test_resnet"), [make_images(32)])
    resnet = make_model("test_resnet")
    with pytest.raises(ValueError, match="expected square maps"):
        spectrum(resnet, [images[:, :, :32]], layers=["stem"])
    with pytest.raises(ValueError, match="stem: expected maps of 16 cells as before, got 24"):
        spectrum(resnet, [images, make_images(96)], layers=["stem"])
    with pytest.raises(ValueError, match=r"features: expected a map .* got list"):
        spectrum(create_model("selecsls42").eval(), [images])


def test_a_network_whose_blocks_were_found_by_search():
    model, images = make_model("test_efficientnet"), make_images(64)
    names = stream_names(model)
    small = r"blocks\.\d\.\d: expected square maps .* 2, 2\); .* leave the layer out"
    with pytest.raises(ValueError, match=small):
        spectrum(model, [images])
    frame = spectrum(model, [images], layers=names[:2])
    assert tuple(frame.layer.unique()) == names[:2]
    assert frame.depth.max() == 1 / (len(names) - 1)
    kept = {}
    with torch.inference_mode(), residual_stream(model, lambda n, x: kept.update({n: x})):
        model(images)
    for layer in names[:2]:
        row = frame[(frame.layer == layer) & (frame.measure == "variance")]
        assert row.value.item() == pytest.approx(float(variances(kept[layer]).mean()), rel=1e-9)


def test_maps_that_are_too_small_are_named():
    model = make_model("test_resnet")
    assert too_small(model, make_images(160, 1)) == {}
    small = too_small(model, make_images(64, 1))
    assert set(small.values()) == {2}
    left = [name for name in stream_names(model) if name not in small]
    assert 0 < len(left) < len(stream_names(model))
    frame = spectrum(model, [make_images(64, 2)], layers=left)
    assert set(frame["layer"]) == set(left)
    with pytest.raises(ValueError, match="at least 3 x 3 cells"):
        spectrum(model, [make_images(64, 2)])
