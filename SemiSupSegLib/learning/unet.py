"""U-Nets: the plain one, and one with residual blocks in its encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import LEAKY_SLOPE, TRANSPOSED_CONVOLUTION, ConvolutionBlock
from .segmentation_network import NetworkPlan, SegmentationNetwork

_AVERAGE_POOL = {2: functional.avg_pool2d, 3: functional.avg_pool3d}


class UNet(SegmentationNetwork):
    """Two convolutions a level, strided ones to go down, transposed ones to go up, concatenated skips.

    References
    ----------
    Ronneberger O. et al., "U-Net", MICCAI 2015. Isensee F. et al., "nnU-Net", Nat Methods 2021,
    for strided convolutions, leaky ReLU and kernels that follow the spacing.
    """

    decoder_convolutions = 2

    def __init__(self, plan: NetworkPlan):
        super().__init__(plan)
        features = plan.features
        for level in range(plan.n_levels):
            self.encoder.append(self._encoder_stage(level))
        for level in reversed(range(plan.n_levels - 1)):
            stride, n = plan.strides[level], features[level]
            self.upsamplings.append(TRANSPOSED_CONVOLUTION[plan.dimensions](features[level + 1], n, stride, stride))
            widths = [2 * n, *[n] * (self.decoder_convolutions - 1)]
            self.decoder.append(nn.Sequential(*(_convolution(plan, level, width) for width in widths)))
        self._finish()

    def _encoder_stage(self, level: int) -> nn.Module:
        plan = self.plan
        return nn.Sequential(
            _convolution(plan, level, plan.channels_into(level), stride=plan.stride_into(level)),
            _convolution(plan, level, plan.features[level]),
        )

    def _join(self, upsampled: Tensor, skip: Tensor) -> Tensor:
        return torch.cat((upsampled, skip), dim=1)


class ResidualUNet(UNet):
    """A U-Net whose encoder has a residual block a level, and whose decoder has one convolution.

    The decoder's convolutions on concatenated maps of full resolution cost most and decide little,
    so half of them are saved.

    References
    ----------
    Isensee F. et al., "nnU-Net Revisited" (residual encoder presets), MICCAI 2024.
    """

    decoder_convolutions = 1

    def _encoder_stage(self, level: int) -> nn.Module:
        return ResidualBlock(self.plan, level)

    def _finish(self) -> None:
        super()._finish()
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                module.start_as_shortcut()


class ResidualBlock(nn.Module):
    """Two convolutions around which the input is carried on: ``act(F(x) + shortcut(x))``.

    The shortcut averages over the stride, and is convolved (1x1x1) where the channels change.

    Parameters
    ----------
    plan : NetworkPlan
        The network's.
    level : int
        The level that the block leads to, 0 for the finest.
    """

    def __init__(self, plan: NetworkPlan, level: int):
        super().__init__()
        n_in, n_out = plan.channels_into(level), plan.features[level]
        self.stride = plan.stride_into(level)
        self.pool = _AVERAGE_POOL[plan.dimensions]
        self.first = _convolution(plan, level, n_in, stride=self.stride)
        self.second = _convolution(plan, level, n_out, activation=nn.Identity())
        self.projection = nn.Identity()
        if n_in != n_out:
            self.projection = _convolution(
                plan, level, n_in, kernel=(1,) * plan.dimensions, activation=nn.Identity(), dropout=0.0
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, n_in, *spatial)`` to ``(B, n_out, *spatial / stride)``."""
        shortcut = self.pool(x, self.stride) if max(self.stride) > 1 else x
        total = self.second(self.first(x)) + self.projection(shortcut)
        return functional.leaky_relu(total, LEAKY_SLOPE, inplace=True)

    def start_as_shortcut(self) -> None:
        """Set the last normalisation's scale to 0, so that training begins with the shortcut alone."""
        scale = getattr(self.second[1], "weight", None)
        if scale is not None:
            nn.init.zeros_(scale)


def _convolution(plan: NetworkPlan, level: int, n_in: int, **options: object) -> ConvolutionBlock:
    """A block that ends in the channels of a level, as the plan has it but for the options."""
    usual = {"kernel": plan.kernel(level), "norm": plan.norm, "dropout": plan.block_dropout}
    return ConvolutionBlock(plan.dimensions, n_in, plan.features[level], **{**usual, **options})
