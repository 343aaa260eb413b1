import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from a2mim.measure.networks import load
from a2mim.measure.probing import finetune_recipe, judge, samples_of, sgd_recipe
from a2mim.messages import UsageError
from a2mim.recipes.finetune import RECIPES
from a2mim.settings.probe import ProbeConfig
from a2mim.settings.weights import WeightsConfig

NETWORK = "test_vit"
WEIGHTS = WeightsConfig(
    ("num_classes=10",), image_size=32, mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=1.0
)
CLEAN = ProbeConfig((f"untrained:{NETWORK}",), method="clean", workers=0, weights=WEIGHTS)


def judged(config, folder):
    name = config.checkpoints[0]
    return judge(config, name, load(name, config.weights), folder, "cpu")


def test_the_classifier_that_is_there(tmp_path):
    """On photographs with labels.csv: against the network, image by image."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(12)]
    lines = ["file,class_index"]
    for k, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{k:02d}.png")
        lines.append(f"{k:02d}.png,{k % 10}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    config = replace(CLEAN, images=tmp_path)
    part = tmp_path / "part"
    part.mkdir()
    rows = judged(config, part).set_index("measure")["value"]
    model = load(config.checkpoints[0], WEIGHTS).model
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        ranked = model((images - 0.5) / 0.25).argsort(descending=True)
    truth = torch.arange(12) % 10
    assert rows["clean_top1"] == pytest.approx(float((ranked[:, 0] == truth).double().mean()))
    top5 = (ranked[:, :5] == truth[:, None]).any(1)
    assert rows["clean_top5"] == pytest.approx(float(top5.double().mean()))
    predicted = pd.read_csv(part / "predictions.csv")
    assert predicted["predicted"].tolist() == ranked[:, 0].tolist()
    assert predicted["label"].tolist() == truth.tolist()
    details = json.loads((part / "details.json").read_text())
    assert details[0]["data_config"]["std"] == [0.25] * 3


def test_a_network_without_a_classifier_has_none(tmp_path):
    config = replace(
        CLEAN, data="digits", weights=replace(WEIGHTS, model_kwargs=("num_classes=0",))
    )
    with pytest.raises(UsageError, match="has none; use linear"):
        judged(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_images_to_train_and_to_test_on():
    frozen = replace(CLEAN, data="digits", method="knn", max_train=30, max_test=20)
    train, test = samples_of(frozen)
    assert [len(train), len(test)] == [30, 20]
    assert train.contents() != samples_of(replace(frozen, max_train=31))[0].contents()
    (alone,) = samples_of(replace(frozen, method="clean"))
    assert alone.contents() == test.contents()


def test_recipes_with_what_was_given():
    sgd = replace(CLEAN, method="sgd", recipe="in1k-vit", lrs=(0.1, 1.0))
    assert sgd_recipe(sgd).lrs == (0.1, 1.0)
    assert sgd_recipe(replace(sgd, lrs=())).lrs != (0.1, 1.0)
    tuned = replace(CLEAN, method="finetune", recipe="digits", data="folder:here")
    assert finetune_recipe(tuned) == replace(RECIPES["digits"](), data="folder:here")
    with pytest.raises(UsageError, match="--recipe NAME for --method sgd"):
        sgd_recipe(replace(sgd, recipe=""))
