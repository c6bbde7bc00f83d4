"""V-Net as the semi-supervised literature uses it."""

from __future__ import annotations

from torch import Tensor, nn

from .layers import TRANSPOSED_CONVOLUTION, ConvolutionBlock, normalisation
from .segmentation_network import NetworkPlan, SegmentationNetwork

_MOST_CONVOLUTIONS = 3


class VNet(SegmentationNetwork):
    """The V-Net of UA-MT and its many successors, SGRS-Net among them.

    One, two, three, three, three convolutions on the levels, mirrored by the decoder; strided and
    transposed convolutions between them; skips are added; no residual connections. 16 filters, five levels
    and batch norm give the published network of 9.45 million parameters.

    References
    ----------
    Milletari F. et al., "V-Net", 3DV 2016. Yu L. et al., "Uncertainty-aware self-ensembling model
    for semi-supervised 3D left atrium segmentation" (UA-MT), MICCAI 2019, for this variant.
    """

    def __init__(self, plan: NetworkPlan):
        super().__init__(plan)
        for level, n in enumerate(plan.features):
            stage = nn.Sequential()
            if level:
                stride = plan.stride_into(level)
                stage.append(self._block(plan.channels_into(level), n, kernel=stride, stride=stride))
            stage.extend(self._convolutions(level, n if level else plan.in_channels))
            self.encoder.append(stage)
        for level in reversed(range(plan.n_levels - 1)):
            self.upsamplings.append(self._upsampling(level))
            self.decoder.append(nn.Sequential(*self._convolutions(level, plan.features[level])))
        self._finish()

    def _join(self, upsampled: Tensor, skip: Tensor) -> Tensor:
        return upsampled + skip

    def _convolutions(self, level: int, n_in: int) -> list[nn.Module]:
        n, kernel = self.plan.features[level], self.plan.kernel(level)
        widths = [n_in, *[n] * (min(level + 1, _MOST_CONVOLUTIONS) - 1)]
        return [self._block(width, n, kernel=kernel) for width in widths]

    def _block(self, n_in: int, n_out: int, **shape: tuple[int, ...]) -> ConvolutionBlock:
        return ConvolutionBlock(
            self.plan.dimensions,
            n_in,
            n_out,
            **shape,
            norm=self.plan.norm,
            activation=nn.ReLU(inplace=True),
            dropout=self.plan.block_dropout,
            bias=True,
        )

    def _upsampling(self, level: int) -> nn.Module:
        plan = self.plan
        stride, n = plan.strides[level], plan.features[level]
        return nn.Sequential(
            TRANSPOSED_CONVOLUTION[plan.dimensions](plan.features[level + 1], n, stride, stride),
            normalisation(plan.norm, plan.dimensions, n),
            nn.ReLU(inplace=True),
        )
