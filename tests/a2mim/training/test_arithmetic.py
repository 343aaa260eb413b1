import pytest
import torch

from a2mim.training import arithmetic as module
from a2mim.training.arithmetic import (
    check_precision,
    compiles,
    fastest,
    float32_products,
    with_float64,
)
from interactions.networks.inference import arithmetic


def state():
    """By the new name and by the old one, as compilers ask; torch raises where they differ."""
    matmul = torch.backends.cuda.matmul
    return matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision, matmul.allow_tf32


@pytest.mark.parametrize(
    ("precision", "products"),
    [("float32", "ieee"), ("tf32", "tf32"), ("bfloat16", "tf32"), ("float16", "tf32")],
)
def test_products_are_what_was_said_and_afterwards_what_they_were(precision, products):
    before = state()
    with float32_products(precision, torch.device("cuda")):
        assert state() == (products, products, products == "tf32")
        assert torch.get_float32_matmul_precision() == {"ieee": "highest", "tf32": "high"}[products]
    assert state() == before
    with float32_products(precision, torch.device("cpu")):
        assert state() == before


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_frozen_networks_find_the_same_products_as_those_that_are_trained(precision):
    """Two switches, because training may not import how frozen networks run: one state."""
    before, device = state(), torch.device("cuda")
    with float32_products(precision, device):
        expected = state(), torch.get_float32_matmul_precision()
    with arithmetic(precision, device):
        assert (state(), torch.get_float32_matmul_precision()) == expected
    assert state() == before


def test_what_a_device_does_not_have_is_refused():
    check_precision("float16", torch.device("cuda"))
    check_precision("tf32", torch.device("cpu"))
    check_precision("float32", torch.device("mps"))
    with pytest.raises(ValueError, match="expected float32 on mps, got bfloat16"):
        check_precision("bfloat16", torch.device("mps"))
    assert with_float64("mps") == torch.device("cpu")
    assert with_float64("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="accelerator for float16, got the CPU"):
        check_precision("float16", torch.device("cpu"))
    with pytest.raises(ValueError, match="float32, tf32, float16, bfloat16, got 'half'"):
        check_precision("half", torch.device("cpu"))


def test_the_fastest():
    assert (fastest("cuda"), fastest("cpu")) == ("bfloat16", "float32")


@pytest.mark.parametrize("triton", [object(), None])
@pytest.mark.parametrize("compiler", ["/usr/bin/gcc", None])
def test_networks_are_compiled_on_a_gpu_that_can(monkeypatch, triton, compiler):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(module, "find_spec", lambda name: triton)
    monkeypatch.setattr(module.shutil, "which", lambda name: compiler)
    assert compiles("cuda") == (triton is not None and compiler is not None)
    assert not compiles("cpu")
    monkeypatch.setenv("CC", "cc")
    assert compiles("cuda") == (triton is not None)


@pytest.mark.gpu
def test_tf32_keeps_11_bits():
    numbers = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    exact = (numbers.double() @ numbers.double()).float()
    there = numbers.cuda()
    for precision, low, high in (("float32", 0, 1e-5), ("tf32", 1e-4, 0.05)):
        with float32_products(precision, torch.device("cuda")):
            error = ((there @ there).cpu() - exact).abs().max()
        assert low <= error < high
