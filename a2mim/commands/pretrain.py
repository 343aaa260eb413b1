"""``a2mim pretrain``: one recipe, from images to a backbone that timm loads.

What the run folder holds is in :mod:`a2mim.recipes.pretraining`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from a2mim.checkpoints.save import pools_without_gradient
from a2mim.data.folders import DataError
from a2mim.data.sampler import Batches
from a2mim.data.sources import without_folders
from a2mim.files import remove_made, write_arrays
from a2mim.messages import UsageError
from a2mim.processes import is_first
from a2mim.recipes.checks import UNDECIDING, check
from a2mim.recipes.pretrain import RECIPES, PretrainConfig, flat
from a2mim.recipes.pretraining import (
    description,
    first_images,
    online_knn,
    prepared,
    samples_of,
    save,
    saving_of,
    settled,
)
from a2mim.recipes.training import announce, engine_arguments, errors_explained
from a2mim.recipes.watching import (
    Log,
    Watch,
    pictures,
    remove_link,
    running_link,
    writing,
)
from a2mim.report.figures import figures_of_pictures
from a2mim.report.figures import save as save_figures
from a2mim.runs.folder import (
    keep_memory,
    label_run,
    nothing_left_empty,
    open_run,
    pick_device,
    place_run,
    safe_name,
)
from a2mim.runs.table import write_table
from a2mim.settings.recipes import chosen
from a2mim.training.loop import pretrain
from a2mim.training.state import CHECKPOINT
from a2mim.training.trackers import Trackers


@nothing_left_empty()
def run(
    name: str,
    config: PretrainConfig,
    out: Path | None,
    *,
    device: str = "auto",
    resume: bool = True,
) -> None:
    """Pre-train a recipe, or go on with an interrupted run of it.

    Args:
        name: of the recipe.
        config: its settings.
        out: output folder; ``results/pretrain/<name>-<key>`` if left out.
        device: auto, cpu, cuda or mps.
        resume: whether to go on where the same command was interrupted.

    Raises:
        UsageError: if the recipe, a setting, the data or the folder cannot be used.
    """
    start = time.perf_counter()
    launched = torch.distributed.is_initialized()  # by whom called us, who will end it
    check(config, chosen(name, RECIPES)())
    device = pick_device(device, float64=False)
    config = settled(config, device)
    if device == "cpu":
        keep_memory()
    try:
        samples = samples_of(config)
        method, optimiser = prepared(config, device)
        steps_per_epoch = Batches(len(samples), config.batch_size, config.seed).per_epoch
        images_ICHW = first_images(samples, config)
        knn = online_knn(config, device)
        images = [samples, *([knn.train, knn.test] if knn else [])]
        contents = [some.contents() for some in images]
    except (DataError, TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    settings = {"recipe": name, **flat(config)}
    for key in ("data", "knn_data"):
        settings[key] = without_folders(settings[key])
    deciding = {key: value for key, value in settings.items() if key not in UNDECIDING}
    everything = deciding | {"images": contents}
    opened = open_run(out, "pretrain", [name], everything, resume=resume)
    if opened.finished:
        return
    work, out, first = opened.work, opened.out, is_first()
    steps = config.epochs * steps_per_epoch
    watch = Watch(method, config, steps, steps_per_epoch, images_ICHW, knn)
    running = running_link(out)
    trackers = Trackers(config.trackers, f"a2mim-{name}", settings)
    log = Log(work, steps, config.batch_size, watch, trackers, link=running)
    idle = pools_without_gradient(method, images_ICHW[:2])
    about = json.dumps(description(method.backbone, config, idle), indent=2) + "\n"
    announce(method, config, len(samples), steps, device)
    if first:
        print(f"log while it runs: {running / 'log.jsonl'}")
    try:
        with errors_explained():
            trained = pretrain(
                method,
                samples,
                optimiser,
                **engine_arguments(config, device, steps_per_epoch),
                on_step=log,
                saving=saving_of(config, work, about, steps_per_epoch, deciding),
            )
    finally:
        log.close()
    if torch.distributed.is_initialized() and not launched:
        torch.distributed.destroy_process_group()
    if not first:
        return
    with writing(work):
        save(method, trained, about, work)
        shown = work / f"reconstructions-{safe_name(config.backbone)}.npz"
        write_arrays(shown, pictures(method, images_ICHW, config))
        save_figures(figures_of_pictures(work), work, ["png"])
        write_table(log.rows(name, config), work / "rows.csv")
        label_run(work, settings, time.perf_counter() - start)
        place_run(opened)
        remove_made(out / "checkpoints", CHECKPOINT)
        remove_link(running)
    last = log.reports[-1]
    print(f"{name}: {steps} steps, loss {last['loss']:.4f}")
    if knn:
        print(f"k-NN probe: {last['knn_top1']:.1%} of {len(knn.test)} test images")
    if last.get("skipped"):
        print(f"unreadable images, for which others came: {last['skipped']:g}; warnings name them")
    print(f"backbone: {out / 'backbone.safetensors'}   pictures: {out / 'reconstructions.png'}")
