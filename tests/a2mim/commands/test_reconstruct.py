import numpy as np
import pytest
import torch
from PIL import Image
from timm import create_model

from a2mim.checkpoints.layouts import IMAGENET
from a2mim.cli import main
from a2mim.methods.mae import MaskedAutoencoder
from a2mim.runs.table import read_table

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
NAME = "vit_base_patch16_224"
KWARGS = [f"{key}={value}" for key, value in VIT.items() if key != "img_size"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("reconstruct") / "run"
    few = ["--few", "64", "--epochs", "1", "--warmup", "0", "--trackers"]
    main(["pretrain", "digits-vit", *few, "--model-kwargs", *KWARGS, "--out", str(out)])
    return out


def mae(path, patch_D):
    """A file of an MAE that predicts the same numbers for every patch."""
    vit = create_model(NAME, num_classes=0, **VIT).eval()
    decoder = MaskedAutoencoder(vit, decoder_width=32, decoder_depth=1).decoder
    decoder.predict.weight.data.zero_()
    decoder.predict.bias.data = patch_D
    state = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    for name, tensor in decoder.state_dict().items():
        first, dot, rest = name.partition(".")
        official = {"mask_token": first, "predict": "decoder_pred"}.get(first, f"decoder_{first}")
        state[f"{official}{dot}{rest}"] = tensor.clone()
    state["decoder_pos_embed"] = torch.cat([torch.zeros(1, 32), decoder.positions])[None]
    torch.save({"model": state}, path)


def test_a_run_draws_and_measures_what_it_predicts(trained, tmp_path, capsys):
    out = tmp_path / "out"
    main(["reconstruct", str(trained), "--data", "digits", "--count", "3", "--out", str(out)])
    assert {"config.json", "reconstructions.png", "reconstructions.svg", "rows.csv"} <= {
        path.name for path in out.iterdir()
    }
    rows = read_table(out / "rows.csv")
    assert rows["measure"].value_counts().to_dict() == {
        "reconstruction_mse": 3,
        "reconstruction_mse_mean": 3,
    }
    assert rows["at"].unique() == [pytest.approx(0.625)]  # 10 of 16 blocks
    # The same from the picture, but for its rounding to levels.
    with np.load(next(out.glob("*.npz"))) as file:
        stacks = {key: file[key].astype(float) / 255 for key in file}
    hidden = (stacks["masked"] != stacks["original"]).any(axis=1, keepdims=True)
    inside = (stacks["prediction"] > 0) & (stacks["prediction"] < 1) & hidden
    error = (stacks["prediction"] - stacks["original"])[inside]
    assert rows.query("measure == 'reconstruction_mse'")["value"].mean() == pytest.approx(
        (error**2).mean(), rel=0.2
    )
    before = (out / "reconstructions.png").read_bytes()
    main(["figures", str(out)])
    assert (out / "reconstructions.png").read_bytes() == before
    assert "error of hidden pixels" in capsys.readouterr().out


@pytest.mark.integration
@pytest.mark.parametrize("norm_pix", [False, True])
def test_whether_pixels_are_normalised_is_told_by_what_predictions_fit(norm_pix, tmp_path):
    """Every patch is the same texture, and so is every prediction: an error of 0 in the one."""
    levels = np.random.default_rng(0).integers(128, 256, (8, 8, 3), dtype=np.uint8)
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for name in "ab":
        Image.fromarray(np.tile(levels, (4, 4, 1))).save(folder / f"{name}.png")
    mean, std = (torch.tensor(IMAGENET[key]) for key in ("mean", "std"))
    patch_D = ((torch.from_numpy(levels) / 255 - mean) / std).flatten()
    normalised_D = (patch_D - patch_D.mean()) / patch_D.std()
    mae(tmp_path / "mae.pth", normalised_D if norm_pix else patch_D)
    command = ["reconstruct", str(tmp_path / "mae.pth"), "--images", str(folder)]
    command += ["--model-kwargs", "num_heads=2", "--crop-pct", "1", "--out", str(out)]
    main(command)
    rows = read_table(out / "rows.csv")
    assert rows["setting"].str.endswith("yes" if norm_pix else "no").all()
    assert rows["at"].unique() == [0.75]
    errors = rows.set_index("measure")["value"]
    assert errors["reconstruction_mse"].max() < 1e-8
    # The mean colour of visible patches is off by the variance of the texture.
    texture = levels.astype(float) / 255
    expected = ((texture - texture.mean(axis=(0, 1))) ** 2).mean()
    assert errors["reconstruction_mse_mean"].to_numpy() == pytest.approx(expected, rel=1e-4)
    main([*command[:-1], str(tmp_path / "other"), "--norm-pix", "no" if norm_pix else "yes"])
    other = read_table(tmp_path / "other" / "rows.csv").set_index("measure")["value"]
    assert other["reconstruction_mse"].min() > 1e-3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--count", "0"], "0"),
        (["--norm-pix", "perhaps"], "perhaps"),
        (["--images", "there"], "--data"),
    ],
)
def test_what_cannot_be_is_one_line(options, said, trained, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "reconstruct",
                str(trained),
                "--data",
                "digits",
                "--out",
                str(tmp_path / "x"),
                *options,
            ]
        )
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
