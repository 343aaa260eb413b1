import numpy as np
from PIL import Image

from a2mim.settings.weights import WeightsConfig
from experiments import occlusion_robustness as script
from interactions.occlusion.curves import by_fraction

WEIGHTS = WeightsConfig(image_size=32)


def test_networks_see_the_same_masks_and_salient_patches_go_first(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for k in range(4):
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    monkeypatch.setattr(script, "WeightsConfig", lambda: WEIGHTS)
    made = {}
    real = script.captum_attribution

    def attributed(model, images_ICHW, players, method, **options):
        made["saliency"] = real(model, images_ICHW, players, method, **options)
        return made["saliency"]

    monkeypatch.setattr(script, "captum_attribution", attributed)
    networks = ("untrained:test_resnet", "untrained:test_efficientnet")
    rows = script.measured(networks, tmp_path, count=4, grid=4, method="Saliency", device="cpu")
    assert made["saliency"].shape == (4, 16)
    assert list(rows) == [(shown, name) for name in networks for shown in script.SHOWN]
    for shown in script.SHOWN:
        one, two = (rows[shown, name] for name in networks)
        assert one["mask"].tolist() == two["mask"].tolist()
        clean = by_fraction(one).query("measure == 'agreement' and fraction == 0")
        assert clean["estimate"].tolist() == [1]
    first, last = (rows[shown, networks[0]].set_index("fraction") for shown in script.SHOWN[1:])
    assert first.loc[0.5, "mask"].tolist() != last.loc[0.5, "mask"].tolist()
    figure = script.draw(rows)
    assert [ax.get_title() or ax.get_title("left") for ax in figure.axes] == [
        *("random", "salient", "non-salient"),
    ]
    few = {key: table for key, table in rows.items() if key[1] == networks[0]}
    monkeypatch.setattr(script, "measured", lambda *args, **kwargs: few)
    script.main(networks, tmp_path, tmp_path / "figure.png")
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert (tmp_path / "figure.png").stat().st_size > 1000
