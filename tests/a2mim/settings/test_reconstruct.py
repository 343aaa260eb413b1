from a2mim.settings.options import parse
from a2mim.settings.reconstruct import ReconstructConfig


def test_what_is_not_given_is_as_in_pre_training():
    config = parse(ReconstructConfig, ["run", "--data", "digits"], "reconstruct", "")
    assert config.checkpoints == ("run",)
    assert (config.mask_ratio, config.block, config.norm_pix) == (None, None, "auto")
    words = ["a.pth", "b.pth", "--mask-ratio", "0.5", "--block", "16", "--norm-pix", "yes"]
    config = parse(ReconstructConfig, words, "reconstruct", "")
    assert config.checkpoints == ("a.pth", "b.pth")
    assert (config.mask_ratio, config.block, config.norm_pix) == (0.5, 16, "yes")
