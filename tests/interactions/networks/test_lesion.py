import pytest
import torch
from timm import create_model

from interactions.networks.lesion import lesion


@pytest.fixture(scope="module")
def vit():
    return create_model(
        "vit_tiny_patch16_224", img_size=224, depth=3, embed_dim=24, num_heads=3, num_classes=4
    ).eval()


@pytest.fixture(scope="module")
def resnet():
    return create_model("test_resnet", num_classes=4).eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def entering(model, layer, batch, **kwargs):
    """What enters a layer within a lesion."""
    seen = []
    with lesion(model, layer, **kwargs):
        # Registered later, so it sees what the lesion has left.
        hook = model.get_submodule(layer).register_forward_pre_hook(
            lambda _, args: seen.append(args[0])
        )
        with torch.inference_mode():
            model(batch)
        hook.remove()
    return seen[0]


def gone(features):
    """Where all channels are 0."""
    return (features == 0).all(dim=2 if features.ndim == 3 else 1)


@pytest.mark.parametrize(("fraction", "dropped"), [(0.25, 49), (0.5, 98), (0.75, 147), (1, 196)])
def test_tokens_are_dropped_as_published(vit, images, fraction, dropped):
    tokens = entering(vit, "blocks.1", images, fraction=fraction)
    where = gone(tokens)
    assert where.sum(dim=1).tolist() == [dropped] * 3
    assert not where[:, 0].any()
    assert (where == where[0]).all()
    whole = entering(vit, "blocks.1", images, fraction=0)
    assert torch.equal(tokens[~where], whole[~where])


def test_places_of_a_map_are_dropped_with_probability_r(resnet, images):
    for layer in ("layer1", "layer4", "global_pool"):
        features = entering(resnet, layer, images, fraction=0.5)
        whole = entering(resnet, layer, images, fraction=0)
        where = gone(features)
        assert (where == where[0]).all()
        kept = ~where[:, None].expand_as(features)
        assert torch.equal(features[kept], whole[kept])
    where = gone(entering(resnet, "layer1", images, fraction=0.25))[0]
    sd = (0.25 * 0.75 / where.numel()) ** 0.5
    assert where.double().mean() == pytest.approx(0.25, abs=4.5 * sd)


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_an_image_keeps_its_places_in_any_batch(name, images, request):
    model = request.getfixturevalue(name)
    layer = "blocks.1" if name == "vit" else "layer2"
    names = ["a", "b", "c"]
    all_of_them = gone(entering(model, layer, images, fraction=0.5, images=names))
    assert not torch.equal(all_of_them[0], all_of_them[1])
    two = gone(entering(model, layer, images[[2, 0]], fraction=0.5, images=["c", "a"]))
    assert torch.equal(two, all_of_them[[2, 0]])
    for other in ({"seed": 1}, {"repeat": 1}):
        changed = gone(entering(model, layer, images, fraction=0.5, images=names, **other))
        assert not torch.equal(changed, all_of_them)
    more = gone(entering(model, layer, images, fraction=0.75, images=names))
    assert (more >= all_of_them).all()


def test_the_network_is_whole_again(vit, images):
    with torch.inference_mode():
        before = vit(images)
        with lesion(vit, "blocks.0", 0.5):
            assert not torch.equal(vit(images), before)
        assert torch.equal(vit(images), before)
        with lesion(vit, "blocks.0", 0):
            assert torch.equal(vit(images), before)
        with pytest.raises(RuntimeError, match="elsewhere"), lesion(vit, "blocks.0", 0.5):
            raise RuntimeError("elsewhere")
        assert torch.equal(vit(images), before)
    assert not any(module._forward_pre_hooks for module in vit.modules())


@pytest.mark.parametrize(
    ("layer", "fraction", "names", "message"),
    [
        ("blocks.0", 1.5, None, "a dropped fraction between 0 and 1, got 1.5"),
        ("layer1", 0.5, None, "a layer of VisionTransformer, got 'layer1'"),
        ("blocks.0", 0.5, ["a", "b"], "a batch of 2 named images, got 3"),
        ("head", 0.5, None, r"at head, got an input of shape \(3, 24\)"),
    ],
)
def test_bad_lesions(vit, images, layer, fraction, names, message):
    with pytest.raises(ValueError, match=message), lesion(vit, layer, fraction, images=names):
        vit(images)


def test_a_lesion_that_nothing_passes_is_an_error(vit):
    with pytest.raises(ValueError, match=r"through blocks.0, but it was never called"):  # noqa: SIM117
        with lesion(vit, "blocks.0", 0.5):
            pass
