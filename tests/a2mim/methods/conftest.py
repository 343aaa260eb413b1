"""What tests of several methods need."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter


@pytest.fixture
def one_graph():
    """``one_graph(method, *batches)``: a method compiles into one graph and stays the same.

    Of the batches, images and masks, the first two have one shape and other masks; what comes
    behind them is shorter, as the last batch of an epoch is.
    """

    def check(method, *batches):
        torch._dynamo.reset()
        counter = CompileCounter()
        # fullgraph: a break is an error
        compiled = torch.compile(method, backend=counter, fullgraph=True)
        graphs = []
        for images, visible in batches:
            got, expected = compiled(images, visible), method(images, visible)
            assert got.keys() == expected.keys()
            for name, value in expected.items():
                assert torch.equal(got[name], value), name
            assert all(value.isfinite().all() for value in expected.values())
            gradients = []
            for out in (got, expected):
                method.zero_grad()
                out["loss"].backward()
                gradients.append([p.grad for p in method.parameters() if p.grad is not None])
            for one, two in zip(*gradients, strict=True):
                assert torch.equal(one, two)
            graphs.append(counter.frame_count)
        short = len(batches) - 2
        assert graphs == [1, 1, *[2] * short]
        torch._dynamo.reset()

    return check
