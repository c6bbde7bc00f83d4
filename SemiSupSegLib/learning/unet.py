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
        for level in range(plan.n_levels):
            self.encoder.append(self._encoder_stage(level))
        for level in reversed(range(plan.n_levels - 1)):
            stride, n = plan.strides[level], plan.features[level]
            upsampling = TRANSPOSED_CONVOLUTION[plan.dimensions](plan.features[level + 1], n, stride, stride)
            self.upsamplings.append(upsampling)
            self.decoder.append(
                nn.Sequential(
                    self._block(2 * n, level),
                    *(self._block(n, level) for _ in range(self.decoder_convolutions - 1)),
                )
            )
        self._finish()

    def _encoder_stage(self, level: int) -> nn.Module:
        first = self._block(self._channels_above(level), level, stride=self._stride_into(level))
        return nn.Sequential(first, self._block(self.plan.features[level], level))

    def _join(self, upsampled: Tensor, skip: Tensor) -> Tensor:
        return torch.cat((upsampled, skip), dim=1)

    def _block(self, n_in: int, level: int, **options: object) -> ConvolutionBlock:
        return ConvolutionBlock(
            self.plan.dimensions,
            n_in,
            self.plan.features[level],
            kernel=self.plan.kernel(level),
            norm=self.plan.norm,
            **{"dropout": self.plan.block_dropout, **options},
        )

    def _channels_above(self, level: int) -> int:
        return self.plan.features[level - 1] if level else self.plan.in_channels

    def _stride_into(self, level: int) -> tuple[int, ...]:
        return self.plan.strides[level - 1] if level else (1,) * self.plan.dimensions


class ResidualUNet(UNet):
    """A U-Net whose encoder has a residual block a level, and whose decoder has one convolution.

    The coarse levels cost little and decide most; the decoder's full-resolution convolutions on
    concatenated maps cost most and decide little. It is cheaper than `UNet` at equal features.

    References
    ----------
    Isensee F. et al., "nnU-Net Revisited" (residual encoder presets), MICCAI 2024.
    """

    decoder_convolutions = 1

    def _encoder_stage(self, level: int) -> nn.Module:
        if level:
            return ResidualBlock(self, level)
        return nn.Sequential(self._block(self.plan.in_channels, 0), ResidualBlock(self, 0))

    def _finish(self) -> None:
        super()._finish()
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                module.start_as_identity()


class ResidualBlock(nn.Module):
    """Two convolutions around which the input is carried on: ``act(F(x) + shortcut(x))``.

    The shortcut averages over the stride, and is convolved (1x1x1) where the channels change.
    """

    def __init__(self, network: UNet, level: int):
        super().__init__()
        plan = network.plan
        n_in = plan.features[level - 1] if level else plan.features[0]
        n_out = plan.features[level]
        self.stride = network._stride_into(level)
        self.pool = _AVERAGE_POOL[plan.dimensions]
        self.first = network._block(n_in, level, stride=self.stride)
        self.second = network._block(n_out, level, activation=nn.Identity())
        self.projection = (
            nn.Identity()
            if n_in == n_out
            else ConvolutionBlock(
                plan.dimensions,
                n_in,
                n_out,
                kernel=(1,) * plan.dimensions,
                norm=plan.norm,
                activation=nn.Identity(),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, n_in, *spatial)`` to ``(B, n_out, *spatial / stride)``."""
        shortcut = self.pool(x, self.stride) if max(self.stride) > 1 else x
        return functional.leaky_relu(self.second(self.first(x)) + self.projection(shortcut), LEAKY_SLOPE, inplace=True)

    def start_as_identity(self) -> None:
        """Set the last normalisation's scale to 0, so that the block begins as its shortcut."""
        scale = getattr(self.second[1], "weight", None)
        if scale is not None:
            nn.init.zeros_(scale)
