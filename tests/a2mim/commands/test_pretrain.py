import ast
import json
import subprocess
import sys
import time

import matplotlib as mpl
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from a2mim.checkpoints.load import load_model
from a2mim.cli import main
from a2mim.commands import pretrain as module
from a2mim.messages import UsageError
from a2mim.recipes.pretrain import RECIPES, changed, with_method
from a2mim.recipes.pretraining import first_images, method_of, samples_of
from a2mim.recipes.watching import pictures
from a2mim.report.figures import reconstructions
from a2mim.runs.folder import run_key
from a2mim.runs.table import read_table
from a2mim.settings.recipes import as_options, chosen
from a2mim.training.state import load_checkpoint
from interactions import plots

TINY = (
    "epochs=2",
    "warmup=0.5",
    "batch_size=299",
    "save_every=1",
    "export_every=1",
    "model_kwargs={'patch_size': 8, 'embed_dim': 24, 'depth': 2, 'num_heads': 2, "
    "'class_token': False, 'global_pool': 'avg', 'fc_norm': False}",
)
MEANS = (*TINY, "epochs=1", "warmup=0.5", "batch_size=298", "loss=simmim")
"""One epoch of a loss that does not depend on how a batch is cut."""


def configured(name, changes):
    """A recipe with settings changed, each as name=value."""
    config = chosen(name, RECIPES)()
    for key, _, text in (change.partition("=") for change in changes):
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = text
        config = with_method(config, value) if key == "method" else changed(config, **{key: value})
    return config


def run(name, changes, data, out, **options):
    config = configured(name, [*changes, *([f"data={data}"] if data else [])])
    module.run(name, config, out, **options)


def as_arguments(name, changes):
    """The same on a command line."""
    recipe = as_options(RECIPES[name]())
    lines = [line for line in as_options(configured(name, changes)) if line not in recipe]
    return [word for line in lines for word in line.split(" ")]


def reports_of(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("pretrain") / "run"
    run("digits-vit", TINY, "", out, device="cpu")
    return out


def test_a_run_leaves_a_backbone_a_log_and_pictures(finished):
    assert [p.name for p in finished.parent.iterdir()] == [finished.name]
    assert sorted(p.name for p in finished.iterdir()) == [
        *("backbone.json", "backbone.safetensors", "checkpoint.safetensors", "config.json"),
        *(
            "exports",
            "log.jsonl",
            "reconstructions-vit_tiny_patch16_224.npz",
            "reconstructions.png",
        ),
        *("rows.csv", "tensorboard", "timm"),
    ]
    reports = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [report["step"] for report in reports] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "spatial", "fourier", "lr", "epoch", "grad_norm"} <= reports[0].keys()
    rows = read_table(finished / "rows.csv")
    assert rows.query("measure == 'pretrain_loss'")["value"].tolist() == pytest.approx(
        [report["loss"] for report in reports]
    )
    assert json.loads((finished / "config.json").read_text())["config"]["recipe"] == "digits-vit"
    assert list((finished / "tensorboard").iterdir())


def test_a_finished_run_is_not_made_again(finished, monkeypatch, capsys):
    monkeypatch.setattr(module, "pretrain", None)
    run("digits-vit", TINY, "", finished, device="cpu")
    assert capsys.readouterr().out.splitlines() == [
        f"finished before: {finished}; --no-resume measures it again"
    ]


def test_the_checkpoint_of_a_run_has_its_decoder_and_mask_token(finished, tmp_path):
    """What it made of hidden patches is drawn again from it, to the byte."""
    config = configured("digits-vit", TINY)
    method = method_of(configured("digits-vit", [*TINY, "seed=1"]))
    saved = load_checkpoint(finished / "checkpoint.safetensors")
    weights = {k.removeprefix("model/"): v for k, v in saved.tensors.items() if k[:6] == "model/"}
    method.load_state_dict(weights, strict=True)
    shown = {config.backbone: pictures(method, first_images(samples_of(config), config), config)}
    with mpl.rc_context(plots.STYLE):
        reconstructions(shown).savefig(tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (finished / "reconstructions.png").read_bytes()
    assert any(key.startswith("optimiser/state/") for key in saved.tensors)


def test_backbones_along_the_way(finished):
    """From the untrained one to the last, each with the training's normalisation and size."""
    config = configured("digits-vit", TINY)
    folders = sorted((finished / "exports").iterdir())
    assert [folder.name for folder in folders] == ["epoch-0000", "epoch-0001", "epoch-0002"]
    found = [load_model(folder) for folder in folders]
    first = method_of(config).backbone.state_dict()
    last = load_file(finished / "backbone.safetensors")
    for loaded, weights in ((found[0], first), (found[2], last)):
        state = loaded.model.state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in weights.items())
    assert len({loaded.report.sha256 for loaded in found}) == 3
    for folder, loaded in zip(folders, found, strict=True):
        by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True)
        assert torch.equal(by_timm.norm.weight, loaded.model.norm.weight)
        assert loaded.data_config["mean"] == tuple(config.mean)
        assert loaded.data_config["input_size"] == (3, 32, 32)
        assert loaded.report.assumed == ()


@pytest.mark.integration
def test_a_run_is_measured_by_its_folder(finished, tmp_path):
    """Features, for a backbone has no classes; its name in the table is the folder's."""
    main(
        [
            *("interactions", str(finished), str(finished / "exports" / "epoch-0001")),
            *("--data", "digits", "--count", "2", "--grid", "4", "--pairs", "1"),
            *("--orders", "0", "1", "--device", "cpu", "--out", str(tmp_path / "out")),
        ]
    )
    rows = read_table(tmp_path / "out" / "rows.csv")
    assert list(rows["weights"].unique()) == ["run", "run/epoch-0001"]
    assert rows["setting"].str.contains("reward=projection").all()
    assert str(finished) not in (tmp_path / "out" / "weights.json").read_text()


def test_the_log_of_a_run_that_works_is_at_a_fixed_place(finished, tmp_path):
    """``<run folder>.running``, for as long as it works."""
    seen = []

    def look(report):
        seen.append((tmp_path / "run.running" / "log.jsonl").read_text())
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("a2mim.recipes.watching.Watch.measure", lambda self, report: look(report))
        run("digits-vit", TINY, "", tmp_path / "run", device="cpu")
    assert [len(text.splitlines()) for text in seen] == [0, 1, 2, 3, 4, 5]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    "name",
    [
        "digits-vit",
        pytest.param("a2mim-r50-in1k", marks=pytest.mark.integration),
        pytest.param("a2mim-convnext-t-in1k", marks=pytest.mark.integration),
    ],
)
def test_timm_loads_what_a_run_leaves(name, tmp_path):
    """By its folder, which says all; by its path it would have another normalisation and size."""
    options = {
        "digits-vit": TINY[-1].removeprefix("model_kwargs="),
        "a2mim-r50-in1k": {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)},
        "a2mim-convnext-t-in1k": {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)},
    }[name]
    small = ("epochs=1", "warmup=0", "batch_size=449", "workers=0", "precision=float32")
    size = () if name == "digits-vit" else ("image_size=64",)
    settings = (*small, *size, f"model_kwargs={options}")
    out = tmp_path / "run"
    run(name, settings, "digits", out, device="cpu")
    by_folder = timm.create_model(f"local-dir:{out / 'timm'}", pretrained=True)
    assert by_folder.num_classes == 0
    for key, tensor in load_file(out / "backbone.safetensors").items():
        assert torch.equal(by_folder.state_dict()[key], tensor)
    config = configured(name, settings)
    data = timm.data.resolve_model_data_config(by_folder)
    assert data["input_size"] == [3, config.image_size, config.image_size]
    assert (data["mean"], data["std"]) == (list(config.mean), list(config.std))
    assert data["crop_pct"] == config.crop_pct == (1.0 if name == "digits-vit" else 0.875)


@pytest.mark.integration
def test_a_killed_run_goes_on_to_the_same_bytes(finished, tmp_path):
    out = tmp_path / "again"
    command = [
        *(sys.executable, "-m", "a2mim.cli", "pretrain", "digits-vit", "--device", "cpu"),
        *("--out", str(out), *as_arguments("digits-vit", TINY)),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begin = time.monotonic()
    while not list(tmp_path.glob("again.*.partial/checkpoints/*.safetensors")):
        assert process.poll() is None, "finished before it could be killed"
        assert time.monotonic() - begin < 100
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not out.exists()
    (checkpoints,) = tmp_path.glob("again.*.partial/checkpoints")
    (checkpoints / "notes.txt").write_text("mine")
    run("digits-vit", TINY, "", out, device="cpu")
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["notes.txt"]
    exported = [f"exports/epoch-000{epoch}/model.safetensors" for epoch in range(3)]
    for name in ("backbone.safetensors", "rows.csv", "reconstructions.png", *exported):
        assert (out / name).read_bytes() == (finished / name).read_bytes()
    headers = []  # with a checksum over all; safetensors writes the parts in any order
    for folder in (out, finished):
        with safe_open(folder / "checkpoint.safetensors", framework="pt") as file:
            headers.append(file.metadata())
    assert headers[0] == headers[1]
    steps = [json.loads(x)["step"] for x in (out / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    run("digits-vit", MEANS, "", out, device="cpu")
    return out


@pytest.mark.integration
def test_two_processes_by_torchrun_are_one(alone, tmp_path):
    check_shared(
        alone,
        tmp_path / "run",
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "a2mim.cli", "pretrain", "digits-vit", "--device", "cpu"),
        *("--out", str(tmp_path / "run"), *as_arguments("digits-vit", MEANS)),
    )


@pytest.mark.integration
def test_two_processes_from_a_notebook_are_one(alone, tmp_path):
    """accelerate's launcher for trying it on a CPU: the same fork as on GPUs, another group."""
    script = (
        "import sys; from functools import partial; from pathlib import Path\n"
        "from accelerate import debug_launcher; from a2mim.commands.pretrain import run\n"
        "from a2mim.cli import _parsed\n"
        "config = _parsed(['pretrain', 'digits-vit', *sys.argv[2:]]).config\n"
        "arguments = ('digits-vit', config, Path(sys.argv[1]))\n"
        "debug_launcher(partial(run, device='cpu'), arguments, num_processes=2)"
    )
    words = as_arguments("digits-vit", MEANS)
    check_shared(alone, tmp_path / "run", "-c", script, str(tmp_path / "run"), *words)


def check_shared(alone, out, *arguments):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("digits-vit: 3 steps") == 1
    assert "Warning" not in done.stderr
    for one, two in zip(reports_of(alone), reports_of(out), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    one, two = (load_file(folder / "backbone.safetensors") for folder in (alone, out))
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "changes", "data", "message"),
    [
        ("digit-vit", (), "", "did you mean digits-vit"),
        ("a2mim-r50-in1k", (), "", "expected --data NAME (digits, cifar10, cifar100, ...), folder"),
        ("digits-vit", (), "cifar11", "got 'cifar11'; did you mean cifar10?"),
        ("digits-vit", (), "stream:a.tar", "expected the number of images in stream:a.tar"),
        (
            "digits-vit",
            ("stream_images=9",),
            "stream:gone.tar",
            "expected a shard, found none at gone.tar",
        ),
        ("digits-vit", (), "folder:/nowhere", "found none at /nowhere"),
        ("digits-vit", ("batch_size=1000",), "", "1000"),
        ("digits-vit", ("model_kwargs={'flavour': 1}",), "", "flavour"),
        ("digits-vit", ("backbone=vitt",), "", "expected the name of a timm model"),
        ("digits-vit", ("backbone=resnet500",), "", "did you mean resnet50"),
        ("digits-vit", ("backbone=moganet_smal",), "", "did you mean moganet_small"),
        ("digits-vit", ("mask_ratio=0.99",), "", "hides some of 16 blocks and not all, got 0.99"),
        ("cifar10-mae", ("mask_ratio=1e-12",), "digits", "of 64 patches and hides one, got 1e-12"),
        ("cifar10-mae", ("mask_ratio=0.999",), "digits", "a mask ratio between 0 and 1 that keeps"),
        ("digits-vit", ("betas=(0.9, 1.0)",), "", "Invalid beta"),
        ("digits-vit", ("fsdp=True",), "", "expected several processes for fsdp, got 1"),
        (
            "digits-vit",
            ("precision=float16",),
            "",
            "expected an accelerator for float16, got the CPU",
        ),
        ("digits-vit", ("block=6",), "", "blocks that divide an image of 32 px"),
        (
            "digits-vit",
            ("method=rmae",),
            "",
            "expected --block 4 for rmae, which hides patches",
        ),
        ("digits-resnet", ("method=cmae",), "", "a timm VisionTransformer, got ResNet"),
        ("digits-vit", ("few=5000",), "", "choose 1 to all 898 images, got 5000"),
        ("cifar10-rmae", ("penalty_weight=-1",), "digits", "penalty weight of at least 0, got -1"),
    ],
)
def test_bad_runs(name, changes, data, message, tmp_path):
    with pytest.raises(UsageError) as caught:
        run(name, changes, data, tmp_path / "out", device="cpu")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.integration
def test_losses_are_cut_as_the_line_says(tmp_path, capsys):
    """Means over images are the same with accumulate=2, to rounding; mean spectra are not."""
    first = []
    for accumulate in (1, 2):
        settings = [*TINY, "epochs=1", "warmup=0", "batch_size=298", f"accumulate={accumulate}"]
        out = tmp_path / str(accumulate)
        run("digits-vit", settings, "", out, device="cpu")
        first.append(reports_of(out)[0])
        said = "the mean spectrum of loss=official-vit sees 149 at" in capsys.readouterr().out
        assert said == (accumulate == 2)
    whole, cut = first
    assert cut["spatial"] == pytest.approx(whole["spatial"], rel=1e-6)
    # Rounding changes it by 1e-7; the direction depends on images and weights.
    assert abs(cut["fourier"] / whole["fourier"] - 1) > 1e-5


def test_other_images_under_the_same_names_are_another_run(tmp_path, monkeypatch):
    """An unreadable one among them is no obstacle."""
    rng, folder, keys = np.random.default_rng(0), tmp_path / "images", []
    few = [*TINY, "batch_size=4"]
    folder.mkdir()
    (folder / "9.png").write_bytes(b"damaged")

    def refuse(out, command, names, config, **_):
        keys.append(run_key(config))
        raise UsageError("seen")

    monkeypatch.setattr(module, "open_run", refuse)
    for look in (0, 0, 1):
        for k in range(8):
            if look or not keys:
                pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{k}.bmp")  # all of one size
        with pytest.raises(UsageError, match="seen"):
            run("digits-vit", few, f"folder:{folder}", tmp_path / "run", device="cpu")
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("full", "then", "saved"),
    [("log", "begins again", 0), ("backbone", "goes on from the last checkpoint", 2)],
)
def test_a_full_disk_is_said_and_the_same_command_does_it(
    full, then, saved, finished, tmp_path, monkeypatch
):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if full == "log":
            patch.setattr("torch.utils.tensorboard.SummaryWriter.add_images", fail)
        else:
            patch.setattr("a2mim.recipes.pretraining.save_backbone", fail)
        with pytest.raises(UsageError) as caught:
            run("digits-vit", TINY, "", tmp_path / "run", device="cpu")
    (work,) = (path for path in tmp_path.iterdir() if not path.is_symlink())
    assert str(caught.value) == (
        f"cannot write to {work}: No space left on device; make room, and the same command {then}"
    )
    assert len(list(work.glob("checkpoints/*.safetensors"))) == saved
    # Settings that change no result may be others.
    others = ("keep=3", "save_every=2", "trackers=()", "workers=1")
    run("digits-vit", [*TINY, *others], "", tmp_path / "run", device="cpu")
    assert not work.exists()
    one, other = (f / "backbone.safetensors" for f in (finished, tmp_path / "run"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.integration
def test_what_is_seen_of_a_run(tmp_path):
    """Averaged weights, a probe every other epoch and at the end, pictures, all by settings."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = [*TINY, "epochs=3", "ema=0.9", "knn_every=2", "channels_last=True"]
    run("digits-vit", settings, "", tmp_path / "run", device="cpu")
    reports = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    probed = {report["step"]: report["knn_top1"] for report in reports if "knn_top1" in report}
    assert list(probed) == [6, 9]
    assert all(0.2 < accuracy <= 1 for accuracy in probed.values())  # 0.1 is chance
    rows = read_table(tmp_path / "run" / "rows.csv").query("measure == 'pretrain_knn_top1'")
    assert dict(zip(rows["at"], rows["value"], strict=True)) == pytest.approx(probed)
    main(
        [
            *("probe", str(tmp_path / "run"), "--data", "digits"),
            *("--method", "knn", "--out", str(tmp_path / "probe")),
        ]
    )
    again = read_table(tmp_path / "probe" / "rows.csv").query("measure == 'knn_top1'")["value"]
    assert again.tolist() == pytest.approx([probed[9]])
    last, averaged = (
        load_file(tmp_path / "run" / f"{name}.safetensors") for name in ("backbone", "backbone-ema")
    )
    assert last.keys() == averaged.keys()
    assert any(not torch.equal(last[key], averaged[key]) for key in last)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Images("reconstructions")] == [3, 6, 9]
    assert events.Images("reconstructions")[0].width == 8 * 32


def test_unreadable_images_are_counted(tmp_path, capsys):
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(16):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{k}.png")
    (folder / "7.png").write_bytes(b"damaged")
    settings = [*TINY, "epochs=1", "warmup=0", "batch_size=8"]
    run("digits-vit", settings, f"folder:{folder}", tmp_path / "run", device="cpu")
    assert (
        "unreadable images, for which others came: 1; warnings name them" in capsys.readouterr().out
    )
    rows = read_table(tmp_path / "run" / "rows.csv")
    assert rows.query("measure == 'pretrain_skipped'")["value"].iloc[-1] == 1


@pytest.mark.integration
def test_a_stream_of_shards(tmp_path):
    from a2mim.data.tar import write_shards

    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(24):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{k}.png")
    write_shards(folder, tmp_path / "shards", per_shard=6)
    settings = [*TINY, "batch_size=8", "stream_images=24", "knn_every=2", "knn_data=digits"]
    run(
        "digits-vit",
        settings,
        f"stream:pipe:cat {tmp_path}/shards/shard-{{000000..000003}}.tar",
        tmp_path / "run",
        device="cpu",
    )
    reports = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [report["step"] for report in reports] == [1, 2, 3, 4, 5, 6]
    assert reports[-1]["skipped"] == 0
    assert reports[-1]["knn_top1"] > 0.2  # 0.1 is chance
    rows = read_table(tmp_path / "run" / "rows.csv").set_index("measure")["dataset"]
    assert rows["pretrain_knn_top1"] == "digits"
    assert set(rows["pretrain_loss"]) == {"stream:shard-{000000..000003}.tar"}
    shards = f"tar:{tmp_path}/shards/shard-000000.tar"
    with pytest.raises(UsageError, match="--knn-data folder:PATH or a set by name for k-NN probes"):
        run("digits-vit", ["knn_every=1", "batch_size=6"], shards, tmp_path / "k")
    with pytest.raises(UsageError, match="images by index for --few or --epoch-images, got a"):
        run(
            "digits-vit",
            ["few=1", "stream_images=24"],
            f"stream:{tmp_path}/shards/shard-000000.tar",
            tmp_path / "few",
            device="cpu",
        )


SIAMESE = (
    *("epochs=2", "warmup=0.5", "batch_size=299", "save_every=1", "workers=0", "block=8"),
    TINY[-1],
)
DECODER = "decoder=(16, 1, 2)"
VIEWS = {
    "cifar10-mae": [DECODER],
    "cifar10-rmae": [DECODER, "penalty_weight=0.5", "view2=full"],
    "cifar10-cmae": ["momentum=0.9", "head=(16, 8)"],
}


@pytest.mark.integration
@pytest.mark.parametrize("name", VIEWS)
def test_mae_and_its_relatives(name, tmp_path):
    """Two epochs, then timm loads what they left; the log and the table have the losses' parts."""
    out = tmp_path / "run"
    run(name, [*SIAMESE, *VIEWS[name]], "digits", out, device="cpu")
    reports = reports_of(out)
    assert len(reports) == 6
    parts = {"similarity", "penalty", "mae", "bound"} if name == "cifar10-rmae" else set()
    rows = read_table(out / "rows.csv")
    assert set(rows["measure"]) == {f"pretrain_{part}" for part in {"loss", *parts}}
    for report in reports:
        assert parts <= report.keys()
        if parts:
            assert report["mae"] <= report["bound"] == pytest.approx(3 * report["loss"], rel=1e-5)
    timm.create_model(f"local-dir:{out / 'timm'}", pretrained=True)
    assert (out / "reconstructions.png").exists()


def test_an_interrupted_run_goes_on_with_its_slow_copy(tmp_path, monkeypatch):
    settings = [*SIAMESE, *VIEWS["cifar10-cmae"], "few=10"]
    run("cifar10-cmae", settings, "digits", tmp_path / "whole", device="cpu")
    engine = module.pretrain
    killed = tmp_path / "killed"

    class Killed(Exception):
        """What happens to a run after its fourth step, the first of an epoch."""

    def killing(*arguments, on_step, **options):
        def told(report):
            on_step(report)
            if report.step == 4:
                raise Killed

        return engine(*arguments, on_step=told, **options)

    monkeypatch.setattr(module, "pretrain", killing)
    with pytest.raises(Killed):
        run("cifar10-cmae", settings, "digits", killed, device="cpu")
    resumed = []

    def going_on(*arguments, **options):
        resumed.append(engine(*arguments, **options))
        return resumed[0]

    monkeypatch.setattr(module, "pretrain", going_on)
    run("cifar10-cmae", settings, "digits", killed, device="cpu")
    assert resumed[0].resumed_from == 3
    for name in ("backbone.safetensors", "rows.csv", "reconstructions.png"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
