"""Cut ``resnet20_replicates.npz`` out of a measurement of 53 images with 200 replicates.

    python tests/interactions/data/make_replicates.py MEASUREMENT.npz

The measurement: ResNet-20 on the first 53 test images of CIFAR-10 in exact pixels, 8 x 8 players,
zero fill, log-odds of the true class, made by

    Design(NeighbourPairs(PatchGrid(8, 8), count=12), Windows(replicates=200, windows=2), seed=7)

Kept is a population whose interactions are known: of every pair and order the interaction, the mean
of all 200 replicates, and around it 18 replicates in float16, less their own mean. So that energies
and the variance of contexts, and with them J and rho, are those of all 200 without their bias,
interactions and deviations are multiplied by one number each per order (interactions by 0.985 to
1).
"""

import sys
from pathlib import Path

import numpy as np

KEPT = 18

if __name__ == "__main__":
    whole = np.load(sys.argv[1])
    all_IPRO = whole["replicates"].astype(float)
    R = all_IPRO.shape[2]
    variance_O = all_IPRO.var(axis=2, ddof=1).mean(axis=(0, 1))
    energy_O = (all_IPRO.mean(axis=2) ** 2).mean(axis=(0, 1)) - variance_O / R
    kept_IPRO = all_IPRO[:, :, :KEPT]
    mean_IP1O = all_IPRO.mean(axis=2, keepdims=True)
    around_IPRO = kept_IPRO - kept_IPRO.mean(axis=2, keepdims=True)
    mean_IP1O *= np.sqrt(energy_O / (mean_IP1O**2).mean(axis=(0, 1, 2)))
    spread_O = (around_IPRO**2).mean(axis=(0, 1, 2))
    around_IPRO *= np.sqrt(np.divide(variance_O, spread_O, where=spread_O > 0, out=spread_O * 0))
    np.savez_compressed(
        Path(__file__).with_name("resnet20_replicates.npz"),
        replicates=(mean_IP1O + around_IPRO).astype(np.float16),
        orders=whole["orders"].astype(np.int16),
        n=whole["n"],
        windows=whole["W"],
    )
