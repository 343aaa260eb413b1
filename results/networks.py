"""Networks of results/compare-* and results/cifar10, as a2mim takes networks of one's own.

``FILE.py:FUNCTION=WEIGHTS``: SqueezeNet 1.1 is torchvision's, the MobileNets are timm's, padded as
in TensorFlow, V1 with a quarter of its channels; the ResNets are those of He et al. for CIFAR-10
(shortcuts without parameters), and that of our study.
"""

import timm
import torchvision
from timm.models.efficientnet import _gen_mobilenet_v1
from timm.models.resnet import BasicBlock, ResNet
from torch import nn
from torch.nn import functional as F

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.201)}
SMALL = {"input_size": (3, 32, 32), "crop_pct": 1.0, "interpolation": "bicubic"}
CROP = {"input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": "bilinear"}


def squeezenet():
    """SqueezeNet 1.1; its features are the means of the maps before its classifier."""
    model = torchvision.models.squeezenet1_1()
    model.pretrained_cfg = CROP | IMAGENET

    def reset_classifier(classes):
        model.classifier = nn.AdaptiveAvgPool2d(1)

    model.reset_classifier = reset_classifier
    return model


def mobilenetv1():
    """MobileNet V1 with a quarter of the channels."""
    model = _gen_mobilenet_v1("mobilenetv1_100", channel_multiplier=0.25, pad_type="same")
    model.pretrained_cfg = CROP | HALF
    return model


def mobilenetv2():
    """MobileNet V2."""
    model = timm.create_model("mobilenetv2_100", pad_type="same")
    model.pretrained_cfg = CROP | HALF
    return model


def small_image_resnet():
    """ResNet-18 of half the width for CIFAR-10, whose stem is one 3 x 3 convolution."""
    widths = (32, 64, 128, 256)
    model = ResNet(BasicBlock, (2, 2, 2, 2), num_classes=10, channels=widths)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    model.pretrained_cfg = SMALL | CIFAR
    return model


def resnet20():
    """ResNet-20 for CIFAR-10."""
    return CifarResNet(3)


def resnet56():
    """ResNet-56 for CIFAR-10."""
    return CifarResNet(9)


class CifarResNet(nn.Module):
    """The ResNets of section 4.2 of He et al., CVPR 2016, with 6 n + 2 layers."""

    pretrained_cfg = SMALL | IMAGENET

    def __init__(self, blocks):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[Block(16, 16) for _ in range(blocks)])
        self.layer2 = nn.Sequential(*[Block(32 if k else 16, 32) for k in range(blocks)])
        self.layer3 = nn.Sequential(*[Block(64 if k else 32, 64) for k in range(blocks)])
        self.linear = nn.Linear(64, 10)

    def forward(self, images):
        """Images (B, 3, 32, 32) -> logits (B, 10)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))

    def reset_classifier(self, classes):
        """Leave an encoder of 64 features."""
        self.linear = nn.Identity()


class Block(nn.Module):
    """Two convolutions; where widths grow, the shortcut is thinned out and padded by zeros."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.grows = outputs - inputs
        stride = 2 if self.grows else 1
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x):
        """A map (B, inputs, h, w) -> (B, outputs, h, w), or half as high and wide."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.grows:
            half = self.grows // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half))
        return F.relu(x + y)
