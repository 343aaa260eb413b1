"""Pages as their readers use them: links lead somewhere, names exist, and what can be copied runs.

Commands run as they stand, in a folder with small stand-ins for what pages name: ``photos``,
``photo.jpg``, ``checkpoint.pth``, ``imagenet`` and so on. What a page's line leaves to defaults is
smaller here (:func:`smaller`), and weights of timm's that would be downloaded are random.
"""

import ast
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import wraps
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import timm
import torch
import tyro
from markdown_it import MarkdownIt
from PIL import Image

import a2mim
import interactions as ix
from a2mim import cli
from a2mim.cli import COMMANDS
from a2mim.methods.mae import MaskedAutoencoder
from a2mim.recipes.finetune import RECIPES as FINETUNE
from a2mim.recipes.pretrain import RECIPES, changed
from a2mim.runs.table import COLUMNS
from a2mim.settings.compare import CompareConfig
from a2mim.settings.demo import DemoConfig
from a2mim.settings.interactions import InteractionsConfig
from a2mim.settings.invariance import InvarianceConfig
from a2mim.settings.occlusion import OcclusionConfig

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = ("generated", "notebooks", "_build")
"""Folders of pages that are made when pages are built."""

NOT_RUN = {
    "pip install .": "changes the environment: make test-wheel installs the wheel",
    "make test": "these tests",
    "make test-all": "these tests",
    "make check": "run by .ci/run",
    "make test-lowest": "run by .ci/run",
    "make docs": "run by .ci/run",
    "make fix": "changes the sources",
    "a2mim interactions checkpoint.pth --images photos --protocol iclr22": (
        "a million forwards an image; the protocols have tests of their own"
    ),
    "torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint "
    "first-machine:29500 -m a2mim pretrain a2mim-r50-in1k --data folder:imagenet --out runs/r50": (
        "wants two machines of eight GPUs"
    ),
}
"""Lines of pages that no test runs, and why."""

PROGRAMS = ("a2mim", "torchrun", "python", "make", "pip")


def pages():
    """README, and all pages that are written by hand."""
    written = [p for p in sorted(DOCS.rglob("*.md")) if p.relative_to(DOCS).parts[0] not in MADE]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *written]


PAGES = pages()


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def tokens_of(page):
    return MarkdownIt().enable("table").parse(page.read_text())


def blocks_of(page):
    """Code on a page, in order: kind (``bash``, ``python``, ...) and text."""
    for token in tokens_of(page):
        if token.type == "fence":
            yield token.info.strip(), token.content
        elif token.type == "code_block":
            yield "", token.content


def lines_of(code):
    """Command lines, without comments, continued lines joined."""
    for line in re.sub(r"\\\n\s*", "", code).splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield line.partition(" #")[0].strip(), words


def commands_of(page):
    """Command lines of a page: those of bash, and what looks like one elsewhere."""
    for kind, code in blocks_of(page):
        if kind == "bash":
            yield from lines_of(code)
        elif kind == "":
            for line in code.splitlines():
                if line.split(" ")[0] in PROGRAMS:
                    yield from lines_of(line)


RUN_PAGES = [p for p in PAGES if any(kind in ("bash", "python") for kind, _ in blocks_of(p))]


# Links


def slug(text):
    """The anchor of a heading, as GitHub and the built pages have it."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def anchors_of(page):
    tokens = tokens_of(page)
    titles = [t for opening, t in pairwise(tokens) if opening.tag[:1] == "h"]
    return {slug("".join(c.content for c in t.children)) for t in titles if t.type == "inline"}


def links_of(page):
    for token in tokens_of(page):
        for child in token.children or ():
            for attribute in ("href", "src"):
                if attribute in child.attrs:
                    yield child.attrs[attribute]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page):
    for link in links_of(page):
        if re.match(r"[a-z]+:", link):
            continue
        where, _, anchor = link.partition("#")
        target = (page.parent / where).resolve() if where else page
        assert target.exists(), f"{name_of(page)} links to {link}"
        assert target.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors_of(target), f"{name_of(page)} links to {link}"


def test_every_page_is_in_the_contents():
    index = (DOCS / "index.md").read_text()
    for page in PAGES[2:]:
        name = page.relative_to(DOCS).with_suffix("").as_posix()
        assert name == "index" or re.search(rf"^{name}$", index, re.MULTILINE), name


def test_every_committed_figure_is_in_the_gallery():
    shown = {(DOCS / link).resolve() for link in links_of(DOCS / "gallery.md")}
    runs = [p for p in (ROOT / "results").iterdir() if p.is_dir()]
    command_runs = {"latest", *(f"{name}" for name in COMMANDS if name not in ("demo", "pretrain"))}
    figures = [
        p for run in runs if run.name not in command_runs for p in sorted(run.rglob("*.png"))
    ]
    tracked = subprocess.run(
        ["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if tracked:
        figures = [p for p in figures if p.relative_to(ROOT).as_posix() in tracked]
    assert figures
    assert {p for p in figures if p not in shown} == set()


# Names


@pytest.fixture(scope="module")
def made():
    """What pages hold that is made from the code."""
    spec = importlib.util.spec_from_file_location("made", DOCS / "made.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_types_of_arrays_are_short(made):
    long = "~numpy.ndarray[tuple[~typing.Any, ...], ~numpy.dtype[~numpy.int64]] | None"
    assert made.of_arrays(long) == "NDArray[int64] | None"
    assert made.of_arrays("TypeAliasForwardRef('ArrayLike') | None") == "ArrayLike | None"
    assert made.of_arrays("tuple[int, ...]") == "tuple[int, ...]"


def test_properties_keep_what_is_said_of_them(made):
    """Colons too, which napoleon takes for the end of a type, and sections."""
    napoleon = pytest.importorskip("sphinx.ext.napoleon")

    class Docstring(napoleon.GoogleDocstring):
        _parse_attribute_docstring = made.sections_of

    said = "J: S over its mean.\n\nRaises:\n    ValueError: if not."
    config = napoleon.Config(napoleon_use_ivar=True)
    lines = Docstring(said, config, what="property", name="J").lines()
    assert [line for line in lines if line] == [
        "J: S over its mean.",
        ":raises ValueError: if not.",
    ]


def test_functions_that_are_defaults_of_fields_are_no_methods(made):
    def skipped(what, obj):
        return made.skipped(None, what, "", obj, False, None)

    assert skipped("class", ix.PatchGame.fill)
    assert skipped("class", ix.Strength.minus) is None
    assert skipped("module", ix.fills.zero) is None


def test_api_lists_all_public_names():
    page = (DOCS / "api" / "index.md").read_text()
    for package, names in (("interactions", ix.__all__), ("a2mim", a2mim.__all__)):
        for name in names:
            assert re.search(rf"^   {name}$|\.{name}$|`ix\.{name}`", page, re.MULTILINE), package


def test_names_of_the_api_page_exist():
    page, module = (DOCS / "api" / "index.md").read_text(), ""
    for line in page.splitlines():
        if line.startswith(".. currentmodule::"):
            module = line.split()[-1]
        elif re.fullmatch(r"   [A-Za-z_][\w.]*", line):
            where, _, name = f"{module}.{line.strip()}".rpartition(".")
            assert hasattr(import_module(where), name), f"{where}.{name}"


def test_every_command_has_its_options_and_its_how_to(made):
    page = (DOCS / "commands.md").read_text()
    assert made.COMMANDS.keys() == COMMANDS.keys()
    for name in COMMANDS:
        assert f"\n## `a2mim {name}`\n" in page
        assert f"generated/{name}.txt" in page
        assert re.search(rf"^\| .*`a2mim {name}`.* \| \[", page, re.MULTILINE), name


def test_options_are_those_that_the_command_says(made):
    said = made.options(["spectrum"])
    assert "--cka-batch" not in said
    assert "--layers" in said
    assert "\x1b" not in said


def test_columns_and_layouts_are_those_of_the_code(made, tmp_path):
    assert tuple(made.ROWS) == COLUMNS
    made.write(tmp_path)
    there = {path.name for path in (tmp_path / "generated").iterdir()}
    for page in PAGES:
        for name in re.findall(r"generated/([\w.-]+)", page.read_text()):
            assert name in there, f"{name_of(page)} includes {name}"
    for name, meanings in made.schemas().items():
        text = (tmp_path / "generated" / f"{name}.md").read_text()
        assert all(f"| `{column}` |" in text for column in meanings)


# What can be copied


@pytest.mark.parametrize("page", RUN_PAGES, ids=name_of)
def test_command_lines_are_understood(page):
    """Options exist, and their values can be; what runs is the next test."""
    for line, words in commands_of(page):
        assert words[0] in PROGRAMS, line
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        elif "a2mim" in words:
            cli._parsed(words[words.index("a2mim") + 1 :])
        else:
            assert line in NOT_RUN, line


@pytest.mark.parametrize("page", RUN_PAGES, ids=name_of)
def test_python_is_whole_and_its_imports_exist(page):
    for kind, code in blocks_of(page):
        if kind != "python":
            continue
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                assert all(importlib.util.find_spec(alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert importlib.util.find_spec(node.module)
                if node.module.startswith(("a2mim", "interactions")):
                    module = import_module(node.module)
                    assert all(hasattr(module, alias.name) for alias in node.names)


def test_what_is_not_run_stands_on_a_page():
    there = {" ".join(words) for page in PAGES for _, words in commands_of(page)}
    assert set(NOT_RUN) <= there


VIT = {"img_size": 64, "patch_size": 16, "embed_dim": 192, "depth": 1, "num_heads": 3}
TRAINED = {"global_pool": "avg", "fc_norm": True, "num_classes": 10, "mlp_ratio": 0.5}
"""A ViT that was fine-tuned after MAE, in the layout of its official code."""
DOWNLOADED = {"resnet50.a1_in1k": {"img_size": 28, "patch_size": 7, "embed_dim": 12, "depth": 1}}
"""timm's own weights that pages name, and what stands in for them."""


def vit(seed, **options):
    """A small ViT that tells images apart."""
    torch.manual_seed(seed)
    model = timm.create_model("vit_base_patch16_224", **VIT | options)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def mae_file(path):
    """An official MAE with its decoder."""
    model = MaskedAutoencoder(vit(3, num_classes=0), decoder_width=32, decoder_depth=1)
    state = dict(model.backbone.state_dict())
    for name, tensor in model.decoder.state_dict().items():
        first, dot, rest = name.partition(".")
        official = {"mask_token": first, "predict": "decoder_pred"}.get(first, f"decoder_{first}")
        state[f"{official}{dot}{rest}"] = tensor.clone()
    positions = model.decoder.positions
    state["decoder_pos_embed"] = torch.cat([torch.zeros(1, 32), positions])[None]
    torch.save({"model": state}, path)


MINE = """
from torch import nn


def network():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    model.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    return model
"""


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """A folder with what pages name."""
    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)

    def photo(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        levels = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((28, 28, 1)))
        Image.fromarray(levels.astype(np.uint8)).save(path)

    photos = [folder / "photos" / f"{k}.png" for k in range(5)]
    for path in [*photos, folder / "photo.jpg"]:
        photo(path)
    labels = "".join(f"{path.name},{k}\n" for k, path in enumerate(photos))
    (folder / "photos" / "labels.csv").write_text(f"file,class_index\n{labels}")
    for split, count in (("train", 8), ("val", 4)):
        for k in range(10):
            for number in range(count if split == "train" else 2):
                photo(folder / "imagenet" / split / f"class{k}" / f"{number}.png")
    for name, seed in (("checkpoint", 0), ("other", 1)):
        torch.save({"model": vit(seed, **TRAINED).state_dict()}, folder / f"{name}.pth")
    mae_file(folder / "mae.pth")
    (folder / "mine.py").write_text(MINE)
    own = {}
    exec(MINE, own)
    torch.save(own["network"]().state_dict(), folder / "mine.pth")
    return folder


SMALL = {
    DemoConfig: {"seeds": 2, "effort": 0.001, "count": 2, "pairs": 1, "replicates": 2}
    | {"occlusion_images": 3, "workers": 1},
    InteractionsConfig: {"count": 4, "pairs": 2, "max_contexts": 8},
    OcclusionConfig: {"count": 4},
    InvarianceConfig: {"repeats": 1},
    CompareConfig: {"budget": 6000},
}
"""Defaults of commands in these tests, where pages leave them out."""


@pytest.fixture
def smaller(monkeypatch):
    """Smaller defaults and recipes, and no downloads."""
    parse, create = cli.parse, timm.create_model

    def small(settings, rest, command, about, default=None):
        if default is None and settings in SMALL:
            first = {} if settings is DemoConfig else {"checkpoints": tyro.MISSING}
            default = settings(**first, **SMALL[settings])
        return parse(settings, rest, command, about, default)

    def stand_in(name, pretrained=False, **options):
        if pretrained and name in DOWNLOADED:
            return vit(5, **DOWNLOADED[name] | options)
        return create(name, pretrained=pretrained, **options)

    def few(recipe):
        @wraps(recipe)
        def config():
            whole = recipe()
            tiny = {"epochs": 1, "warmup": 0, "workers": 0, "trackers": (), "knn_every": None}
            tiny |= {"batch_size": 16, "few": 40 if whole.data == "digits" else None}
            if whole.image_size == 224:
                net = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}
                tiny |= {"backbone": "resnet18", "model_kwargs": net, "image_size": 64}
                tiny |= {"epoch_images": 512}
            return changed(whole, **tiny)

        return config

    monkeypatch.setattr(cli, "parse", small)
    monkeypatch.setattr(timm, "create_model", stand_in)
    for name in ("digits-vit", "digits-resnet", "cifar10-vit", "a2mim-r50-in1k"):
        monkeypatch.setitem(RECIPES, name, few(RECIPES[name]))
    sizes = {"train_size": 64, "test_size": 64, "test_resize": 64, "batch_size": 16}
    sizes |= {"mix_group": 16, "precision": None}
    tuned = replace(FINETUNE["mae-vit-b"](), epochs=1, warmup=0, workers=0, **sizes)
    monkeypatch.setitem(FINETUNE, "mae-vit-b", wraps(FINETUNE["mae-vit-b"])(lambda: tuned))


@pytest.mark.integration
@pytest.mark.parametrize("page", RUN_PAGES, ids=name_of)
def test_what_can_be_copied_runs(page, stand_ins, tmp_path, monkeypatch, smaller):
    """From top to bottom, in one folder; each Python block by itself."""
    folder = tmp_path / "folder"
    shutil.copytree(stand_ins, folder)
    monkeypatch.chdir(folder)
    for kind, code in blocks_of(page):
        if kind == "python":
            exec(compile(code, name_of(page), "exec"), {"__name__": "__main__"})
            plt.close("all")
        elif kind == "bash":
            for _, words in lines_of(code):
                run(words)


def run(words):
    if " ".join(words) in NOT_RUN:
        return
    if words[0] == "a2mim":
        arguments = [one for word in words[1:] for one in expanded(word)]
        cli.main(arguments)
    elif words[0] == "torchrun":
        torchrun = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
        done = subprocess.run(torchrun, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    else:
        raise AssertionError(f"no test runs {' '.join(words)}; see NOT_RUN")


def expanded(word):
    """What a shell makes of a path with stars."""
    if "*" not in word or ":" in word:
        return [word]
    return sorted(str(path) for path in Path().glob(word))
