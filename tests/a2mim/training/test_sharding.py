"""Run as a script, this file is two processes that share a module."""

import json
import math
import os
import socket
import subprocess
import sys
import traceback
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from a2mim.training.sharding import exchange_parameters, gather, placed, sharded, whole

CPU = torch.device("cpu")


class Net(nn.Module):
    """Two blocks of odd sizes, one inside a list and one nested; a frozen part and buffers."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Linear(5, 5), nn.GELU()),
            nn.TransformerEncoderLayer(5, 1, 7, 0.0, batch_first=True),
        )
        self.more = nn.ModuleList([nn.TransformerEncoderLayer(5, 1, 3, 0.0, batch_first=True)])
        self.norm = nn.BatchNorm1d(5)
        self.token = nn.Parameter(torch.zeros(1, 1, 5))
        self.fixed = nn.Parameter(torch.randn(3), requires_grad=False)

    def forward(self, x_BNE):
        y_BNE = self.more[0](self.blocks(x_BNE + self.token))
        return {"loss": (self.norm(y_BNE.flatten(1)[:, :5]) * self.fixed[0]).pow(3).mean()}


def make(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net()


def equal(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_plain_tensors_are_left_alone():
    value = torch.rand(3)
    assert whole(value) is value
    assert placed(value, nn.Parameter(torch.zeros(3))) is value
    assert placed(0.5, value) == 0.5


def test_a_single_number_cannot_be_spread():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

    with pytest.raises(ValueError, match=r"scale is a single number; give it the shape \(1,\)"):
        sharded(Scaled(), CPU)


def test_an_optimiser_takes_its_state_along():
    """Between plain modules: no process group is needed."""
    one, two = make(), make()
    optimiser = torch.optim.AdamW([{"params": [p], "lr": 0.1} for p in one.parameters()])
    for _ in range(2):
        one(torch.ones(3, 2, 5))["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
    before = {k: dict(v) for k, v in optimiser.state_dict()["state"].items()}
    exchange_parameters(optimiser, one, two)
    held = [p for group in optimiser.param_groups for p in group["params"]]
    assert all(a is b for a, b in zip(held, two.parameters(), strict=True))
    after = optimiser.state_dict()["state"]
    assert before.keys() == after.keys()
    for k, values in before.items():
        assert all(torch.equal(value, after[k][name]) for name, value in values.items())


@pytest.mark.integration
def test_two_processes_share_a_module(tmp_path):
    done = subprocess.run(
        [sys.executable, __file__, tmp_path],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0, 0], done.stderr
    rows = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for name, parameter in Net().named_parameters():
        assert rows[0][name] + rows[1][name] == len(parameter), name
        assert rows[0][name] == math.ceil(len(parameter) / 2), name


def share(folder, rank, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    os.environ |= {"WORLD_SIZE": "2", "RANK": f"{rank}"}
    torch.distributed.init_process_group("gloo")
    own = make(seed=rank)  # of which that of the first process counts
    before = deepcopy(own.state_dict())
    # Not Adam: where a gradient is zero, it makes steps of rounding errors.
    optimiser = torch.optim.SGD(own.parameters(), lr=0.1, momentum=0.9)
    copy = sharded(own, CPU)
    assert all(torch.equal(before[k], v) for k, v in own.state_dict().items())
    exchange_parameters(optimiser, own, copy)
    units = {name for name, part in copy.named_modules() if isinstance(part, FSDPModule)}
    assert units == {"", "blocks.1", "more.0"}
    assert all(isinstance(p, DTensor) for p in copy.parameters())
    rows = {name: len(p.to_local()) for name, p in copy.named_parameters()}
    (folder / f"{rank}.json").write_text(json.dumps(rows))
    other = make(seed=7)
    gather(copy, other)
    assert equal(other, make(seed=0))  # to the bit

    # the same steps on one process, over the images of both
    plain, x_BNE = make(seed=0).eval(), torch.randn(4, 2, 5, generator=torch.Generator())
    rule = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    copy.eval()
    for _ in range(2):
        copy(x_BNE[2 * rank :][:2])["loss"].backward()
        plain(x_BNE)["loss"].backward()
        for step in (optimiser, rule):
            step.step()
            step.zero_grad()
    gather(copy, own)
    exchange_parameters(optimiser, copy, own)
    for name, tensor in own.state_dict().items():
        assert (tensor - plain.state_dict()[name]).abs().max() < 1e-5, name
    # what the optimiser keeps is whole again, and over the module's own parameters
    held = [p for group in optimiser.param_groups for p in group["params"]]
    assert all(a is b for a, b in zip(held, own.parameters(), strict=True))
    for parameter, expected in zip(own.parameters(), plain.parameters(), strict=True):
        for name, value in optimiser.state[parameter].items():
            assert not isinstance(value, DTensor)
            assert (value - rule.state[expected][name]).abs().max() < 1e-5, name

    # there and back: a value takes the rows of its parameter, and gives them back
    parameter = next(copy.parameters())
    value = torch.arange(float(parameter.numel())).reshape(parameter.shape)
    there = placed(value, parameter)
    assert there.placements == parameter.placements
    assert torch.equal(whole(there), value)
    assert torch.equal(placed(there, value), value)
    assert placed(torch.tensor(3.0), parameter) == 3.0  # no moment, but a count of steps
    torch.distributed.destroy_process_group()


def main(folder):
    torch.set_num_threads(1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in (0, 1):
        child = os.fork()
        if not child:
            try:
                share(folder, rank, port)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    json.dump([os.waitstatus_to_exitcode(status) for status in statuses], sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
