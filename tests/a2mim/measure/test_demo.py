import pandas as pd

from a2mim.measure.demo import rows_of
from a2mim.recipes.demo import ALL, FEW
from a2mim.runs.table import ENERGY, per_image_rows, write_table


def test_rows_are_what_the_commands_left(tmp_path):
    """Every image once a network, under its own name, with what came out for it."""
    of = {"run": "x", "model": "m", "dataset": "d", "commit": "c", "seed": 5, "setting": "grid"}
    game = [
        per_image_rows([[1.0, 2.0]], ["a"], [0.0, 1.0], 4, measure=measure, weights=arm, **of)
        for arm in ALL
        for measure in (ENERGY, "interaction_strength_plug_in")
    ]
    (tmp_path / "interactions-vit-1").mkdir()
    write_table(pd.concat(game), tmp_path / "interactions-vit-1" / "rows.csv")
    for k, arm in enumerate((*ALL, *FEW)):
        (tmp_path / f"{arm}-vit-1").mkdir()
        told = pd.DataFrame({"image": [0, 1], "label": [3, 4], "predicted": [3, k]})
        told.to_csv(tmp_path / f"{arm}-vit-1" / "predictions.csv", index=False)
    images = tmp_path / "occlusion-vit-1" / "images"
    images.mkdir(parents=True)
    hidden = pd.DataFrame(
        {"image": ["p", "p", "q", "q"], "fraction": [0.0, 0.5] * 2, "correct": [1, 0, 1, 1]}
    )
    for k, arm in enumerate(ALL):
        hidden.assign(correct=hidden["correct"] * k).to_csv(
            images / f"{k}-{arm}-random.csv.gz", index=False
        )
    rows = rows_of("vit", 1, tmp_path)
    assert set(rows["seed"]) == {1}
    assert set(rows["model"]) == {"vit"}
    assert set(rows["commit"]) == {"c"}
    kept = rows.groupby(["measure", "weights"], sort=False)["value"].apply(list).to_dict()
    assert kept == {
        **{(ENERGY, arm): [1.0, 2.0] for arm in ALL},
        **{("accuracy", arm): [1.0, 0.0] for arm in (*ALL, *FEW)},
        ("occlusion_accuracy", "scratch"): [0.0] * 4,
        ("occlusion_accuracy", "a2mim"): [1.0, 0.0, 1.0, 1.0],
    }
