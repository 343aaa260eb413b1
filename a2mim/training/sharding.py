"""Parameters spread over processes (FSDP2), and whole again.

    process r of R holds the r-th of R parts of the rows of every parameter, of its gradient, and of
    what the optimiser keeps about it; a part of the network is whole while it computes

It is torch's ``fully_shard`` on a copy: the module that was given stays as it is, because there is
no way back for a sharded one. accelerate's plugin is not used: on CPUs it trains unsharded without
a word, and it exchanges gradients in the low precision.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


def sharded(module: nn.Module, device: torch.device) -> nn.Module:
    """A copy of the first process's module, its parameters spread over all processes.

    A part that is whole at one time is a block: an element of an ``nn.Sequential`` or
    ``nn.ModuleList`` that has parts itself. What is left belongs to the module as a whole.

    Args:
        module: the same in all processes but for its numbers.
        device: of this process.

    Raises:
        ValueError: for a parameter that has no rows.
    """
    for name, parameter in module.named_parameters():
        if parameter.ndim == 0:
            raise ValueError(
                f"expected parameters with rows to spread over processes, {name} is a single "
                "number; give it the shape (1,), or do without fsdp"
            )
    copy = deepcopy(module)
    with torch.no_grad():
        for tensor in (*copy.parameters(), *copy.buffers()):
            first = tensor.to(device)  # the process group may know no other device
            torch.distributed.broadcast(first, src=0)
            tensor.copy_(first)
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    lists = (nn.Sequential, nn.ModuleList)
    elements = {
        id(child) for parent in copy.modules() if isinstance(parent, lists) for child in parent
    }
    blocks = [
        part
        for part in copy.modules()
        if id(part) in elements and list(part.children()) and not isinstance(part, lists)
    ]
    for block in reversed(blocks):  # those inside others first
        fully_shard(block, mesh=mesh)
    fully_shard(copy, mesh=mesh)
    return copy


def gather(copy: nn.Module, module: nn.Module) -> None:
    """Put the numbers of a sharded copy into the module; called by all processes at once."""
    state = module.state_dict()
    for name, tensor in copy.state_dict().items():
        state[name].copy_(whole(tensor))


def exchange_parameters(optimiser: Optimizer, before: nn.Module, after: nn.Module) -> None:
    """Let an optimiser go on with the parameters of another module: a sharded copy, or back.

    Called by all processes at once; what the optimiser keeps about its parameters goes along.

    Args:
        optimiser: over parameters of ``before``.
        before: the module.
        after: a module of the same parameters.
    """
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    new = {id(old): parameter for old, parameter in pairs}
    state = optimiser.state_dict()
    parameters = []
    for group in optimiser.param_groups:
        group["params"] = [new[id(parameter)] for parameter in group["params"]]
        parameters += group["params"]
    state["state"] = {
        index: {name: placed(value, parameters[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    optimiser.state.clear()
    optimiser.load_state_dict(state)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all of its rows; a sharded one takes all processes at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed(value: Any, parameter: Tensor) -> Any:
    """A value of a parameter's shape, spread as the parameter is; any other value whole."""
    if isinstance(value, DTensor):
        value = whole(value).to(parameter.device)
    if not isinstance(parameter, DTensor) or getattr(value, "shape", None) != parameter.shape:
        return value
    # Every process has all rows and takes its own: nothing needs to be sent.
    here = value.to(parameter.device)
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(here, mesh, placements, src_data_rank=None)
