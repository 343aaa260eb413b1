"""Does masked pre-training raise middle-order interactions and occlusion robustness? In small.

The claims of A2MIM (Li et al., ICML 2023) and of Kong & Zhang (CVPR 2023), each with an interval
over images and training seeds: a ViT and a ResNet on CIFAR-10, or on Tiny-ImageNet-100 at 64 px,
from scratch, with strong supervised augmentation, and after SimMIM, A2MIM and MAE.

    networks   the ViT, and a ResNet with a stem for small images, by a name that timm knows
    arms       what is trained how: recipes of ``a2mim`` with small changes
    sizes      everything that decides the time
    plan       seconds of every stage from a short timing, and the size that fits a budget
    stages     what is done, in its order, by the commands of ``a2mim``
    locks      who works on which stage, over processes and machines
    tables     raw rows of all stages; differences of arms with their intervals
    figures    vector figures, from the tables
    claims     the claims, and which of them hold
    writeup    the page that says so
    release    two of the networks, small enough to be published
    report     all of this again, from the raw rows (``make figures``)

Command: ``python -m experiments.cifar10 --data FOLDER --budget 3h-cpu --out OUT``
"""
