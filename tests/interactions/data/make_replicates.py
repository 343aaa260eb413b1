"""Cut ``resnet20_replicates.npz`` out of a measurement of all 53 images with 200 replicates.

    python tests/interactions/data/make_replicates.py MEASUREMENT.npz

The measurement: ResNet-20 (test error 8.3 %) on the first 53 test images of CIFAR-10 in exact
pixels, 8 x 8 players, zero fill, log-odds of the true class, made by

    Design(NeighbourPairs(PatchGrid(8, 8), count=12), Windows(replicates=200, windows=2), seed=7)

Kept are the first 18 replicates in float16: the population that tests and the benchmark draw
images, pairs and replicates from, so that its interactions are known exactly.
"""

import sys
from pathlib import Path

import numpy as np

KEPT = 18

if __name__ == "__main__":
    whole = np.load(sys.argv[1])
    np.savez_compressed(
        Path(__file__).with_name("resnet20_replicates.npz"),
        replicates=whole["replicates"][:, :, :KEPT].astype(np.float16),
        orders=whole["orders"].astype(np.int16),
        n=whole["n"],
        windows=whole["W"],
    )
