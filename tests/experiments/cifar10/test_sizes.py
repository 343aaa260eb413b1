from experiments.cifar10.sizes import SIZES


def test_more_epochs_are_kept_at_whole_points():
    for size in SIZES:
        for more in range(8):
            large = size.stretched(more)
            assert large.finetune_epochs == size.finetune_epochs + more
            assert large.export_every * (size.points - 1) == large.pretrain_epochs


def test_every_size_but_the_tiny_one_has_seeds():
    assert all(size.seeds >= 2 for size in SIZES if size.name != "tiny")
