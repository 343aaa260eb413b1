import numpy as np
import pytest
import torch

import interactions as ix
from interactions import checks, stats


class Net(torch.nn.Module):
    """Three logits: means of the channels of an 8 x 8 image."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def forward(self, images_BCHW):
        return images_BCHW.mean(dim=(2, 3)) * self.weight


GRID, IMAGES, NET = ix.PatchGrid(4, 4), torch.rand(4, 3, 8, 8), Net().eval()
DESIGN = ix.Design(ix.NeighbourPairs(GRID, 2, 2), ix.Windows(2, 1), (0, 1))


def played(image=IMAGES[0], model=NET, players=GRID, label=0, **options):
    return ix.measure([ix.PatchGame(model, image, label, players, **options)], DESIGN)


def occluded(images=IMAGES, players=GRID, occluder="random", model=NET, **options):
    return ix.occlude(model, images, [0] * 4, players, occluder, **options)


def similar(images=IMAGES, grid=GRID, untrained=None, **options):
    return ix.invariance(NET, images, grid, untrained=untrained, **options)


REFUSED = {
    "half a row": (lambda: ix.PatchGrid(4.5, 4), "whole number for rows, got 4.5"),
    "a flag": (lambda: ix.PatchGrid(4, True), "whole number for cols, got True"),
    "no row": (lambda: ix.PatchGrid(0, 4), "at least 1 x 1 cells, got 0 x 4"),
    "windows": (lambda: ix.Windows(2.5, 1), "whole number for replicates, got 2.5"),
    "no replicate": (lambda: ix.Windows(0, 1), "at least 1 for replicates, got 0"),
    "radius": (lambda: ix.NeighbourPairs(GRID, np.nan, 2), "whole number for radius, got nan"),
    "pairs": (lambda: ix.NeighbourPairs(GRID, 2, 2.0), "whole number for count, got 2.0"),
    "pairs of a number": (lambda: ix.NeighbourPairs(4, 2, 2), r"a grid \(PatchGrid\), got int"),
    "seed": (lambda: ix.Design(DESIGN.pairs, seed="a"), "whole number for seed, got 'a'"),
    "orders": (lambda: ix.Design(DESIGN.pairs, ratios=("a",)), "numbers for ratios, got 'a'"),
    "an order": (lambda: ix.Design(DESIGN.pairs, ratios=0.5), "several numbers for ratios"),
    "no games": (lambda: ix.measure([], DESIGN), "at least one game, got none"),
    "a game": (lambda: ix.measure(None, DESIGN), "games in a list, got NoneType"),
    "no design": (lambda: ix.measure([], None), r"a design \(Design\), got NoneType"),
    "no model": (lambda: played(model="vit"), r"a network \(Module\), got str"),
    "no players": (lambda: played(players=4), "players, such as PatchGrid.*, got 4"),
    "batch": (lambda: played(batch_size=1.5), "whole number for batch_size, got 1.5"),
    "no occluder": (lambda: occluded(occluder=3), "an occluder, by name or a function, got 3"),
    "occluded players": (lambda: occluded(players=4), "players, such as PatchGrid.*, got 4"),
    "fraction": (lambda: occluded(fractions=0.5), "several numbers for fractions.* got 0.5"),
    "fractions": (lambda: occluded(fractions=(0, np.nan)), "finite numbers for fractions, got nan"),
    "repeats": (lambda: occluded(repeats=1.5), "whole number for repeats, got 1.5"),
    "occlusion seed": (lambda: occluded(seed=0.5), "whole number for seed, got 0.5"),
    "occlusion batch": (lambda: occluded(batch_size=0), "at least 1 for batch_size, got 0"),
    "no classifier": (lambda: occluded(model=None), "a network or a function, got None"),
    "hidden": (lambda: similar(fractions=(0, np.nan)), "finite numbers for fractions, got nan"),
    "CKA": (lambda: similar(cka_batch=4.5), "whole number for cka_batch, got 4.5"),
    "grid": (lambda: similar(grid=4), r"a grid \(PatchGrid\), got int"),
    "twin": (lambda: similar(untrained="x"), r"an untrained network \(Module\), got str"),
    "level": (lambda: similar(level=95), "a level between 0 and 1, such as 0.95, got 95"),
    "nan level": (lambda: stats.mean([1.0, 2.0], np.nan), "level between 0 and 1.*got nan"),
    "level of a share": (lambda: stats.share([0, 1.0], 0), "level between 0 and 1.*got 0"),
    "maps": (lambda: ix.spectrum(NET, IMAGES, batch_size=0), "at least 1 for batch_size, got 0"),
    "level of maps": (lambda: ix.spectrum(NET, IMAGES, level=2), "level between 0 and 1.*got 2"),
    "records": (lambda: ix.strength(["x"]), r"a record \(Interactions\), got str"),
    "plan": (lambda: ix.plan([], 0.1, replicates=[]), "at least 2 replicates, got none"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused_by_name(what):
    call, message = REFUSED[what]
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_what_is_right_passes():
    checks.whole(np.int64(3), "count")
    checks.level_of_interval(0.95)
    assert checks.numbers(np.array([0, 0.5]), "fractions") == (0, 0.5)
    assert len(played()) == 1
    assert len(ix.occlude(NET, IMAGES, [0] * 4, GRID, "random", seed=np.int64(2))) == 40
