"""One small run each of the demo and of a comparison, shared by the tests; and a browser."""

import csv
import fcntl
import json
import os
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from a2mim.commands.compare import compare
from a2mim.commands.demo import demo
from a2mim.measure import interactions as interaction_curves
from a2mim.measure import invariance, occlusion, spectrum
from a2mim.measure import plan as compare_plan
from a2mim.measure.comparison import Comparison
from a2mim.settings.demo import DemoConfig

TINY = {
    "pretrain_steps": 3,
    "finetune_steps": 3,
    "batch_size": 16,
    "count": 2,
    "pairs": 2,
    "occlusion_images": 3,
    "max_test": 100,
    "device": "cpu",
}


@pytest.fixture(scope="session")
def tiny():
    return TINY


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "demo"
    demo(DemoConfig(out=out, **TINY))
    return out


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
