"""R-MAE and C-MAE against MAE, loops, closed forms and the plain training loop."""

import os
import signal
from copy import deepcopy
from math import exp, log, log1p

import pytest
import torch
from timm import create_model

from a2mim.data.sampler import keyed_generator
from a2mim.methods.mae import MaskedAutoencoder, encode_visible, visible_places
from a2mim.methods.siamese import (
    ContrastiveMAE,
    ImageLevel,
    RelaxedMAE,
    SlowCopy,
    TokenLevel,
    info_nce,
    second_view,
)
from a2mim.training.loop import Interrupted, Saving, pretrain

SIZE = 32  # 4 x 4 patches of 8 px
IMAGE = ImageLevel((16, 16, 8))
TOKENS = {"width": 32, "depth": 1, "heads": 2, "channels": 8}


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def make_backbone(**kwargs):
    options = {"patch_size": 8, "embed_dim": 32, "num_heads": 2, "depth": 1, "num_classes": 0}
    return create_model("test_vit", img_size=SIZE, **options | kwargs)


def make_relaxed(seed=0, ratio=0.5, depth=1, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2}
        return RelaxedMAE(make_backbone(depth=depth), ratio, **sizes | kwargs)


def make_contrastive(seed=0, level=IMAGE, ratio=0.5, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ContrastiveMAE(make_backbone(), ratio, level=level, **kwargs)


def batch(model, count=4, seed=1, squares=4):
    """Images with something to learn: squares of one colour, and noise."""
    draws = generator(seed)
    colours = torch.randn(count, 3, squares, squares, generator=draws)
    noise = 0.1 * torch.randn(count, 3, SIZE, SIZE, generator=draws)
    images = torch.nn.functional.interpolate(colours, SIZE) + noise
    return images, model.draw(torch.arange(count), seed)


def train(model, steps, parameters=None, squares=4):
    """The losses of some steps with Adam."""
    optimiser = torch.optim.Adam(parameters or model.parameters(), lr=3e-3)
    history = []
    for step in range(steps):
        losses = model(*batch(model, 8, step, squares))
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        history.append({name: v.item() for name, v in losses.items() if v.ndim == 0})
    return history


def touched(module):
    """Whether any parameter has a gradient other than 0."""
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def noisy(module):
    """Another network of the same shape."""
    with torch.no_grad():
        for k, parameter in enumerate(module.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(k)))


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# Views


def test_the_second_view_is_the_complement_or_everything():
    _, visible = batch(make_relaxed(ratio=0.75), 5)
    complement, full = (second_view(visible, view2, 4) for view2 in ("complement", "full"))
    for b in range(5):
        assert complement[b].tolist() == [k for k in range(16) if not visible[b, k]]
        assert full[b].tolist() == list(range(16))


@pytest.mark.parametrize(("view2", "tokens"), [("complement", 12), ("full", 16)])
@pytest.mark.parametrize("make", [make_relaxed, make_contrastive])
def test_what_each_pass_sees(make, view2, tokens):
    model = make(ratio=0.75, view2=view2)
    lengths = []
    block = model.backbone.blocks[0]
    block.register_forward_pre_hook(lambda _m, inputs: lengths.append(inputs[0].shape[1]))
    model(*batch(model))
    assert lengths == [1 + 4, 1 + tokens]  # with the class token


def test_masks_are_those_of_mae():
    mae = MaskedAutoencoder(make_backbone(), 0.75, decoder_width=8, decoder_heads=1)
    expected = mae.draw(torch.arange(5), 1)
    for model in (make_relaxed(ratio=0.75), make_contrastive(ratio=0.75)):
        assert torch.equal(model.draw(torch.arange(5), 1), expected)


# R-MAE


@pytest.mark.parametrize("view2", ["complement", "full"])
@pytest.mark.parametrize("norm_pix", [True, False])
def test_the_parts_by_loops(view2, norm_pix):
    """Each image by itself, its tokens picked by boolean indexing, each number by itself."""
    model = make_relaxed(view2=view2, norm_pix=norm_pix, penalty_weight=0.25).double().eval()
    images, visible = batch(model, 2)
    images = images.double()
    sums, terms = {"similarity": 0.0, "penalty": 0.0, "mae": 0.0}, 0
    with torch.inference_mode():
        out = model(images, visible)
        vit = model.backbone
        for image, mask in zip(images, visible, strict=True):
            second = ~mask if view2 == "complement" else torch.ones_like(mask)
            predictions = []
            for shown, decoder in ((mask, model.decoder), (second, model.decoder2)):
                tokens = vit.patch_embed.proj(image[None]).flatten(2).transpose(1, 2)
                tokens = tokens + vit.pos_embed[:, 1:]
                first = vit.cls_token + vit.pos_embed[:, :1]
                z = vit.norm(vit.blocks(torch.cat([first, tokens[:, shown]], dim=1)))
                predictions.append(decoder(z, shown.nonzero()[None, :, 0])[0].tolist())
            for k in (~mask).nonzero()[:, 0].tolist():
                top, left = 8 * (k // 4), 8 * (k % 4)
                patch = image[:, top : top + 8, left : left + 8].permute(1, 2, 0).flatten()
                if norm_pix:
                    patch = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
                for t, y1, y2 in zip(patch.tolist(), *(p[k] for p in predictions), strict=True):
                    sums["similarity"] += (y1 - y2) ** 2
                    sums["penalty"] += (y2 - t) ** 2
                    sums["mae"] += (y1 - t) ** 2
                    terms += 1
    assert terms == 2 * 8 * 192
    for name, total in sums.items():
        assert out[name].item() == pytest.approx(total / terms, rel=1e-10)
    loss = (sums["similarity"] + 0.25 * sums["penalty"]) / terms
    assert out["loss"].item() == pytest.approx(loss, rel=1e-10)
    assert out["bound"].item() == pytest.approx(5 * loss, rel=1e-10)


def test_mae_is_what_a_masked_autoencoder_loses_and_predicts():
    model = make_relaxed().eval()
    images, visible = batch(model)
    mae = MaskedAutoencoder(
        model.backbone, 0.5, decoder_width=32, decoder_depth=1, decoder_heads=2
    ).eval()
    mae.decoder.load_state_dict(model.decoder.state_dict())
    with torch.inference_mode():
        expected, out = mae(images, visible), model(images, visible)
    assert torch.equal(out["mae"], expected["loss"])
    assert torch.equal(out["output"], expected["output"])


@pytest.mark.parametrize("view2", ["complement", "full"])
@pytest.mark.parametrize("penalty_weight", [0.1, 1.0, 10.0])
def test_the_bound_holds_on_every_batch(penalty_weight, view2):
    """L_MAE <= (1 + 1 / lambda)(S + lambda penalty), while training."""
    for losses in train(make_relaxed(penalty_weight=penalty_weight, view2=view2), 8):
        parts = losses["similarity"] + penalty_weight * losses["penalty"]
        assert losses["loss"] == pytest.approx(parts, rel=1e-5)
        assert losses["bound"] == pytest.approx((1 + 1 / penalty_weight) * parts, rel=1e-5)
        assert losses["mae"] <= losses["bound"] * (1 + 1e-6)


def test_where_the_bound_is_tight():
    """d(z1) - d'(z2) = lambda (d'(z2) - t), here 2 = 2 times 1, makes both sides 9."""
    model = make_relaxed(penalty_weight=2.0, norm_pix=False).double()
    images, visible = batch(model)
    images = torch.zeros_like(images.double())
    model.decoder.register_forward_hook(lambda _m, _i, y: torch.full_like(y, 3.0))
    model.decoder2.register_forward_hook(lambda _m, _i, y: torch.full_like(y, 1.0))
    out = model(images, visible)
    assert (out["similarity"].item(), out["penalty"].item()) == (4, 1)
    assert (out["mae"].item(), out["bound"].item()) == (9, pytest.approx(9))


def variances(model):
    """Over 32 images, of z1 and of the hidden patches that d' predicts."""
    images, visible = batch(model, 32, seed=10**6)
    visible = visible[:1].expand(32, -1)
    places, others = visible_places(visible, 16), second_view(visible, model.view2, 8)
    with torch.inference_mode():
        features = encode_visible(model.backbone, images, places)
        z2 = encode_visible(model.backbone, images, others)
        predicted = model.decoder2(z2, others)[~visible].reshape(32, 8, -1)
    return features.var(dim=0).mean().item(), predicted.var(dim=0).mean().item()


@pytest.mark.integration
def test_without_the_penalty_predictions_collapse():
    collapsing, kept = (
        make_relaxed(penalty_weight=weight, norm_pix=False) for weight in (0.0, 1.0)
    )
    features, before = variances(kept)
    first, *_, last = train(collapsing, 60)
    assert "bound" not in last  # it would be infinite
    assert last["loss"] == last["similarity"] < 0.01 * first["loss"]
    assert variances(collapsing)[1] < 0.01 * before
    assert last["penalty"] > 0.8  # of a variance of 1: nothing of the image is left
    losses = train(kept, 60)
    assert variances(kept)[1] > before
    assert losses[-1]["penalty"] < 0.5
    # Constant decoders have left the features without a gradient.
    assert variances(collapsing)[0] > 0.8 * features


@pytest.mark.integration
def test_without_the_penalty_features_collapse_if_decoders_cannot():
    collapsing, kept = (
        make_relaxed(penalty_weight=weight, norm_pix=False) for weight in (0.0, 1.0)
    )
    before = variances(kept)[0]
    for model in (collapsing, kept):
        train(model, 100, list(model.backbone.parameters()))
    assert variances(collapsing)[0] < 0.1 * before
    assert variances(kept)[0] > 0.5 * before


def test_all_parameters_learn():
    model = make_relaxed()
    model(*batch(model))["loss"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("branch", ["view1", "view2"])
def test_a_stopped_branch_gets_no_gradient_from_the_similarity(branch):
    model, plain = make_relaxed(stop_gradient=branch), make_relaxed()
    images, visible = batch(model)
    out = model(images, visible)
    assert torch.equal(out["loss"], plain(images, visible)["loss"])  # values stay
    (other,) = {"view1", "view2"} - {branch}
    decoders = {"view1": model.decoder, "view2": model.decoder2}
    out["similarity"].backward(retain_graph=True)
    assert touched(decoders[other])
    assert not touched(decoders[branch])
    # DDP waits for the gradients of all that is not frozen.
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert {name.split(".")[0] for name in frozen} == ({"decoder"} if branch == "view1" else set())
    assert touched(model.backbone)
    # of the backbone's gradient, the part of the other branch: the other one made constant
    expected = make_relaxed()
    stopped = {"view1": expected.decoder, "view2": expected.decoder2}[branch]
    stopped.register_forward_hook(lambda _m, _i, y: y.detach())
    expected(images, visible)["similarity"].backward()
    for one, two in zip(model.backbone.parameters(), expected.backbone.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)
    model.zero_grad()
    out["penalty"].backward()
    assert touched(model.decoder2)
    assert not touched(model.decoder)


def test_a_slow_copy_encodes_the_second_view_without_gradient():
    model = make_relaxed(momentum=0.9).eval()
    noisy(model.target)
    images, visible = batch(model)
    out = model(images, visible)
    out["penalty"].backward(retain_graph=True)
    assert touched(model.decoder2)
    assert not touched(model.backbone)
    out["loss"].backward()
    assert touched(model.backbone)
    assert not touched(model.target)
    swapped = make_relaxed().eval()
    swapped.backbone.load_state_dict(model.target.backbone.state_dict())
    assert torch.equal(swapped(images, visible)["penalty"], out["penalty"])
    assert not torch.equal(swapped(images, visible)["mae"], out["mae"])


# C-MAE


def test_info_nce_by_loops():
    queries, keys = torch.randn(2, 3, 5, 4, generator=generator(), dtype=torch.float64)
    total = 0.0
    for a in range(3):
        for i in range(5):
            q = queries[a, i] / queries[a, i].norm()
            scores = [exp((q @ k / k.norm()).item() / 0.2) for k in keys[a]]
            total -= log(scores[i] / sum(scores)) / 15
    assert info_nce(queries, keys, 0.2).item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_info_nce_in_closed_form(temperature):
    """Identical views, orthogonal features: log(1 + (Q - 1) e^(-1 / tau)); all the same: log Q."""
    features = 3 * torch.eye(6, dtype=torch.float64)[None]  # lengths do not matter
    expected = log1p(5 * exp(-1 / temperature))
    assert info_nce(features, features, temperature).item() == pytest.approx(expected, rel=1e-9)
    same = torch.ones(2, 6, 4)
    assert info_nce(same, same, temperature).item() == pytest.approx(log(6), rel=1e-6)
    turned = features.roll(1, dims=1)  # every query is right about its neighbour's key
    worst = log(exp(1 / temperature) + 5)
    assert info_nce(features, turned, temperature).item() == pytest.approx(worst, rel=1e-9)


def test_info_nce_is_float32_under_autocast():
    queries, keys = torch.randn(2, 1, 8, 16, generator=generator())
    with torch.autocast("cpu", torch.bfloat16):
        low = info_nce(queries, keys, 0.07)
        rounded = info_nce(queries.bfloat16(), keys.bfloat16(), 0.07)
    assert torch.equal(low, info_nce(queries, keys, 0.07))
    assert rounded.dtype == torch.float32
    exact = info_nce(queries.bfloat16().double(), keys.bfloat16().double(), 0.07)
    assert rounded.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("view2", ["complement", "full"])
def test_the_image_level_by_loops(view2):
    model = make_contrastive(view2=view2, temperature=0.2).double().eval()
    images, visible = batch(model)
    images = images.double()
    second = ~visible if view2 == "complement" else torch.ones_like(visible)
    with torch.inference_mode():
        out = model(images, visible)
        views = [
            [
                model.head.layers(
                    encode_visible(
                        model.backbone, images[b : b + 1], shown[b].nonzero()[None, :, 0]
                    )[0, 1:].mean(dim=0)
                )
                for b in range(4)
            ]
            for shown in (visible, second)
        ]
    torch.testing.assert_close(out["output"][:, 0], torch.stack(views[0]))
    q, k = ([v / v.norm() for v in view] for view in views)
    scores = [[exp((a @ b).item() / 0.2) for b in k] for a in q]
    expected = -sum(log(row[i] / sum(row)) for i, row in enumerate(scores)) / 4
    assert out["loss"].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("negatives", ["images", "positions", "all"])
def test_the_token_level_by_loops(negatives):
    level = TokenLevel(**TOKENS, negatives=negatives)
    model = make_contrastive(level=level, temperature=0.2).double().eval()
    images, visible = batch(model, 3)
    images = images.double()
    with torch.inference_mode():
        out = model(images, visible)
        q, k = (
            model.head(encode_visible(model.backbone, images, places), places)
            for places in (visible_places(visible, 16), visible_places(~visible, 16))
        )
    assert torch.equal(out["output"], q)
    q, k = (v / v.norm(dim=2, keepdim=True) for v in (q, k))
    total = 0.0
    for b in range(3):
        for n in range(16):
            others = {
                "images": [(c, n) for c in range(3)],
                "positions": [(b, m) for m in range(16)],
                "all": [(c, m) for c in range(3) for m in range(16)],
            }[negatives]
            scores = {at: exp((q[b, n] @ k[at]).item() / 0.2) for at in others}
            total -= log(scores[b, n] / sum(scores.values())) / 48
    assert out["loss"].item() == pytest.approx(total, rel=1e-9)


def test_without_layers_the_features_themselves_are_compared():
    model = make_contrastive(level=ImageLevel(())).eval()
    images, visible = batch(model)
    tokens = encode_visible(model.backbone, images, visible_places(visible, 16))
    assert torch.equal(model(images, visible)["output"][:, 0], tokens[:, 1:].mean(dim=1))


LEVELS = {"image": IMAGE, "token": TokenLevel(**TOKENS)}


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_contrast_learns_and_does_not_collapse(level):
    model = make_contrastive(level=level)
    model(*batch(model))["loss"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    losses = [row["loss"] for row in train(model, 30, squares=1)]
    assert sum(losses[-10:]) / 10 < 0.5 * log(8)  # log 8 is the loss of constant features


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("branch", ["view1", "view2"])
def test_a_stopped_branch_of_the_contrast(branch, level):
    """Its gradient is that of a network in which the stopped branch is a constant."""
    model = make_contrastive(level=level, stop_gradient=branch)
    images, visible = batch(model)
    constants = deepcopy(model)
    loss = model(images, visible)["loss"]
    loss.backward()
    described = []
    for places in (visible_places(visible, 16), visible_places(~visible, 16)):
        z = encode_visible(constants.backbone, images, places)
        described.append(level.sets(constants.head(z, places)))
    stopped = 0 if branch == "view1" else 1
    with torch.no_grad():
        described[stopped] = described[stopped].clone()
    expected = info_nce(*described, 0.1)
    expected.backward()
    assert torch.equal(loss, expected)
    for one, two in zip(model.parameters(), constants.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)
    plain = make_contrastive(level=level)
    plain(images, visible)["loss"].backward()
    weight = model.backbone.blocks[0].mlp.fc1.weight
    assert not torch.allclose(plain.backbone.blocks[0].mlp.fc1.weight.grad, weight.grad)


def test_a_slow_copy_makes_the_second_view_of_the_contrast():
    model = make_contrastive(momentum=0.9).eval()
    noisy(model.target)
    images, visible = batch(model)
    loss = model(images, visible)["loss"]
    loss.backward()
    assert not touched(model.target)
    assert touched(model.backbone)
    assert touched(model.head)
    places = visible_places(visible, 16), visible_places(~visible, 16)
    q = model.head(encode_visible(model.backbone, images, places[0]), places[0])
    z2 = encode_visible(model.target.backbone, images, places[1])
    k = model.target.head(z2, places[1])
    assert torch.equal(loss, info_nce(q.transpose(0, 1), k.transpose(0, 1), 0.1))


# Momentum


def test_momentum_in_closed_form():
    """xi_n = m^n theta_0 + (1 - m) sum over s of m^(n - s) theta_s, after n steps."""
    model = make_contrastive(momentum=0.7)
    optimiser = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.5, momentum=0.9
    )
    trained = torch.nn.ModuleDict({"backbone": model.backbone, "head": model.head})
    theta = [weights(trained)]
    for step in range(5):
        # two micro-batches per step
        for part in range(2):
            model(*batch(model, seed=10 * step + part))["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        model.after_step()
        theta.append(weights(trained))
    for name, slow in model.target.state_dict().items():
        past = sum(0.7 ** (5 - s) * theta[s][name] for s in range(1, 6))
        torch.testing.assert_close(slow, 0.7**5 * theta[0][name] + 0.3 * past)
        assert not slow.requires_grad
    key = "backbone.blocks.0.mlp.fc1.weight"
    assert (model.target.state_dict()[key] - theta[5][key]).abs().max() > 1e-3


def test_a_copy_without_momentum_has_the_last_weights():
    model = make_relaxed(momentum=0.0)
    noisy(model.backbone)
    assert not equal(weights(model.target.backbone), weights(model.backbone))
    model.after_step()
    assert equal(weights(model.target.backbone), weights(model.backbone))


@pytest.mark.parametrize("make", [make_relaxed, make_contrastive])
def test_without_a_copy_nothing_follows(make):
    model = make()
    before = weights(model)
    model.after_step()
    assert equal(weights(model), before)


# With the engine


class Squares:
    """Keyed images."""

    def __len__(self):
        return 20

    def load(self, index, epoch):
        return torch.randn(3, SIZE, SIZE, generator=keyed_generator("squares", epoch, index))


METHODS = {
    "relaxed": lambda seed=0: make_relaxed(seed, momentum=0.8),
    "image": lambda seed=0: make_contrastive(seed, momentum=0.8),
    "token": lambda seed=0: make_contrastive(seed, TokenLevel(**TOKENS), momentum=0.8),
}


def fit(method, *, sgd=False, steps=6, **options):
    parameters = [p for p in method.parameters() if p.requires_grad]
    kind = torch.optim.SGD if sgd else torch.optim.AdamW
    optimiser = kind(parameters, lr=1.0)
    done = pretrain(
        method,
        Squares(),
        optimiser,
        lambda step, scale: 0.01 * scale,
        batch_size=6,
        steps=steps,
        log_every=1,
        cpu=True,
        **options,
    )
    return method, done


class Killed(Exception):
    """What happens to a run."""


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_a_run_that_was_killed_goes_on_to_the_same_bits(make, tmp_path):
    def on_step(report):
        if report.step == 5:
            raise Killed

    saving = Saving(tmp_path, every_steps=3)
    with pytest.raises(Killed):
        fit(make(), saving=saving, on_step=on_step)
    method, done = fit(make(seed=1), saving=saving)
    assert done.resumed_from == 3
    whole, _ = fit(make())
    assert equal(weights(method), weights(whole))
    assert not equal(weights(method.target.backbone), weights(method.backbone))


def test_a_signal_does_not_lose_the_update_of_its_step(tmp_path):
    def on_step(report):
        if report.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="after step 2 of 6"):
        fit(METHODS["relaxed"](), saving=Saving(tmp_path), on_step=on_step)
    method, _ = fit(METHODS["relaxed"](seed=1), saving=Saving(tmp_path))
    assert equal(weights(method), weights(fit(METHODS["relaxed"]())[0]))


def test_micro_batches_update_the_copy_once_per_step():
    one, _ = fit(METHODS["relaxed"](), sgd=True)
    two, _ = fit(METHODS["relaxed"](), sgd=True, accumulate=3)
    for name, value in weights(one).items():
        torch.testing.assert_close(two.state_dict()[name], value, atol=1e-6, rtol=1e-5)


def test_the_parts_are_reported():
    reports = []
    fit(make_relaxed(), steps=2, on_step=reports.append)
    assert reports[0].losses.keys() == {"loss", "similarity", "penalty", "mae", "bound"}
    for report in reports:
        assert report.losses["mae"] <= report.losses["bound"]


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_bfloat16(make):
    model = make().eval()
    images, visible = batch(model)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images, visible)
    assert all(v.dtype == torch.float32 for v in out.values() if v.ndim == 0)
    out["loss"].backward()
    assert out["loss"].item() == pytest.approx(model(images, visible)["loss"].item(), rel=0.05)


COMPILED = {
    "R-MAE": make_relaxed,
    "R-MAE, slow copy, whole second view": lambda: make_relaxed(momentum=0.8, view2="full"),
    "R-MAE, stopped": lambda: make_relaxed(stop_gradient="view2", penalty_weight=0.0),
    "C-MAE": make_contrastive,
    "C-MAE, slow copy, tokens": lambda: make_contrastive(level=LEVELS["token"], momentum=0.8),
    "C-MAE, whole second view, all tokens": lambda: make_contrastive(
        level=TokenLevel(**TOKENS, negatives="all"), view2="full"
    ),
}


@pytest.mark.integration
@pytest.mark.parametrize("make", COMPILED.values(), ids=COMPILED)
def test_it_compiles_into_one_graph(make, one_graph):
    model = make()
    images, visible = batch(model)
    one_graph(model, (images, visible), (images, visible.roll(1, 0)), (images[:2], visible[1:3]))


# What does not fit


def test_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="expected a timm VisionTransformer, got ResNet"):
        RelaxedMAE(create_model("test_resnet"))
    with pytest.raises(ValueError, match=r"keeps one of 16 patches .* got 0.99"):
        ContrastiveMAE(make_backbone(), 0.99)
    for options, message in (
        ({"penalty_weight": -1.0}, "penalty weight of at least 0, got -1"),
        ({"view2": "half"}, "view2 complement or full, got 'half'"),
        ({"stop_gradient": "both"}, "stop_gradient view1 or view2, got 'both'"),
        ({"momentum": 1.0}, "at least 0 and below 1, got 1.0"),
        ({"momentum": 0.9, "stop_gradient": "view1"}, "view 1 stopped and view 2 slow"),
    ):
        with pytest.raises(ValueError, match=message):
            make_relaxed(**options)
    for options, message in (
        ({"temperature": 0.0}, "positive temperature, got 0.0"),
        ({"view2": "half"}, "view2 complement or full, got 'half'"),
        ({"stop_gradient": "both"}, "stop_gradient view1 or view2, got 'both'"),
        ({"momentum": 0.9, "stop_gradient": "view2"}, "got 'view2' and 0.9"),
    ):
        with pytest.raises(ValueError, match=message):
            make_contrastive(**options)
    with pytest.raises(ValueError, match="negatives images or positions or all, got 'none'"):
        TokenLevel(negatives="none")
    with pytest.raises(ValueError, match="below 1, got 2"):
        SlowCopy(2, head=torch.nn.Linear(1, 1))


@pytest.mark.parametrize("make", [make_relaxed, make_contrastive])
def test_bad_inputs(make):
    model = make()
    images, visible = batch(model)
    with pytest.raises(ValueError, match=r"expected 8 visible .* got \[16\]"):
        model(images, torch.ones_like(visible))
    with pytest.raises(ValueError, match=r"images \(4, 3, 32, 32\)"):
        model(images[:, :, :16], visible)
    with pytest.raises(TypeError, match="visible as bool"):
        model(images, visible.float())


def test_a_pair_alone_has_no_negatives():
    model = make_contrastive()
    with pytest.raises(ValueError, match="at least 2 pairs to compare, got 1; use more images"):
        model(*batch(model, 1))
    level = TokenLevel(**TOKENS, negatives="positions")
    model = make_contrastive(level=level)
    assert model(*batch(model, 1))["loss"] > 0
