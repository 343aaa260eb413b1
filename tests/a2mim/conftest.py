"""A table of the demo, a small run of a comparison, shared by the tests; and a browser."""

import csv
import fcntl
import itertools
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from a2mim.commands.compare import compare
from a2mim.measure import interactions as interaction_curves
from a2mim.measure import invariance, occlusion, spectrum
from a2mim.measure import plan as compare_plan
from a2mim.measure.comparison import Comparison
from a2mim.runs.table import ENERGY, RHO, per_image_rows


@pytest.fixture(scope="session")
def demo_rows():
    """A table as the demo leaves it, of drawn numbers: 3 seeds, 8 images, 13 orders."""
    rng, n = np.random.default_rng(0), 64
    orders = [0, 3, 6, 12, 19, 25, 31, 37, 43, 50, 56, 59, 62]
    at, images = [order / (n - 2) for order in orders], [f"digits/{k:04d}" for k in range(8)]
    told = {"run": "demo", "dataset": "digits", "commit": "abc1234"}
    tables = []
    for model, arm, seed in itertools.product(("vit", "resnet"), ("scratch", "a2mim"), range(3)):
        of = told | {"model": model, "seed": seed}
        right = rng.integers(0, 2, (8, 1))
        for weights in (arm, f"{arm}-few"):
            tables.append(
                per_image_rows(
                    *(right, images, [0.0], 1),
                    **{**of, "weights": weights, "measure": "accuracy", "setting": ""},
                )
            )
        drop = {"weights": arm, "measure": "occlusion_accuracy", "setting": "grid=8x8 drop=random"}
        correct = rng.integers(0, 2, (8, 3))
        tables.append(per_image_rows(correct, images, [0.0, 0.4, 0.8], 1, **of, **drop))
        game = {
            "weights": arm,
            "setting": "grid=8x8 reward=log_odds label=truth fill=zero pairs=4 radius=2",
        }
        energies = rng.gamma(2.0, size=(8, 13))
        samples = [4 if order in (0, 62) else 16 for order in orders]
        tables += [
            per_image_rows(energies, images, at, samples, measure=ENERGY, **of, **game),
            per_image_rows(np.ones((1, 13)), ["all 8"], at, samples, measure=RHO, **of, **game),
        ]
    return pd.concat(tables, ignore_index=True)


VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}


def saved(path, classes=3, crop_pct=1.0, mean=0.5, **options):
    """Weights of a small ViT, and beside them what ``a2mim pretrain`` writes."""
    torch.manual_seed(len(path.stem))
    name, options = "vit_tiny_patch16_224", VIT | options
    model = timm.create_model(name, num_classes=classes, **options)
    for parameter in model.parameters():  # timm's initial networks say the same of all images
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    save_file(model.state_dict(), path)
    look = {
        "input_size": [3, options["img_size"], options["img_size"]],
        "mean": [mean] * 3,
        "std": [0.25] * 3,
        "crop_pct": crop_pct,
    }
    about = {"architecture": name, "model_args": options, "pretrained_cfg": look}
    path.with_suffix(".json").write_text(json.dumps(about))
    return str(path)


@pytest.fixture(scope="session")
def save_vit():
    return saved


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Make a folder in the first process of the tests that asks for it, for all of them."""
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def folder(name, make):
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (root / f"{name}.done").exists():
                make(root / name)
                (root / f"{name}.done").touch()
        return root / name

    return folder


@pytest.fixture(scope="session")
def compared(once):
    """What a small comparison needs: photographs with classes, networks, and forwards."""

    def make(folder):
        photos, rng = folder / "photos", np.random.default_rng(0)
        photos.mkdir(parents=True)
        for k in range(12):
            coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
            coarse.resize((48, 40)).save(photos / f"{k:02d}.png")
        with (photos / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("file", "class_index")])
            csv.writer(file).writerows((f"{k:02d}.png", k % 3) for k in range(12))
        unlabelled = shutil.ignore_patterns("labels.csv")
        shutil.copytree(photos, folder / "unlabelled", ignore=unlabelled)
        saved(folder / "one.safetensors", crop_pct=0.9)
        saved(folder / "other.safetensors", mean=0.4)
        saved(folder / "encoder.safetensors", classes=0)

    folder = once("compared", make)
    networks = {name: str(folder / f"{name}.safetensors") for name in ("one", "other", "encoder")}
    images = {name: folder / name for name in ("photos", "unlabelled")}
    return {**images, **networks, "budget": 12_000}


@pytest.fixture(scope="session")
def comparison(compared, once):
    """Two classifiers that want other crops and normalisations, with the smallest budget."""

    def make(folder):
        with pytest.MonkeyPatch.context() as patch:
            hasten(patch)
            compare(
                [compared["one"], compared["other"]],
                images=compared["photos"],
                grid=4,
                budget=compared["budget"],
                pictures=0,  # they take long to draw
                device="cpu",
                out=folder / "compare",
            )

    return Comparison(once("comparison", make) / "compare")


def hasten(patch):
    """Leave out what a comparison's tests do not look at: timing, and figures of its panels.

    And take any budget, however little it tells.
    """
    patch.setattr(compare_plan, "TIMED_SECONDS", 0.0)
    patch.setattr(interaction_curves, "TOO_LITTLE", np.inf)
    for module in (interaction_curves, invariance, occlusion, spectrum):
        patch.setattr(module, "save", lambda figures, folder: None)


@pytest.fixture
def hastened(monkeypatch):
    """Of other comparisons, the figures are left out too."""
    hasten(monkeypatch)
    monkeypatch.setattr(Comparison, "save_figures", lambda self: None)
    monkeypatch.setattr(Comparison, "to_html", lambda self, path: None)


CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="module")  # while it lives, asyncio.run() fails: notebooks need that
def browser():
    """A headless Chromium."""
    reason = "no Chromium found: install the distribution's chromium package"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        pytest.skip(reason)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens a file; messages of its console and requests for anything else fail the test."""
    tabs, opened, requested, messages = [], [], [], []

    def open_file(path, width=1200):
        tab = browser.new_page(viewport={"width": width, "height": 800})
        tab.on("request", lambda request: requested.append(request.url))
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tabs.append(tab)
        opened.append(path.as_uri())
        tab.goto(path.as_uri())
        return tab

    yield open_file
    for tab in tabs:
        tab.close()
    assert requested == opened
    assert messages == []
