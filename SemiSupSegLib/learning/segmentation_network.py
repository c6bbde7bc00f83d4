"""What every network of this package is: an encoder, a decoder, skips between them, and a classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from torch import Tensor, nn

from ..errors import SettingsError
from .layers import CONVOLUTION, channel_dropout, initialise


@dataclass(frozen=True)
class NetworkPlan:
    """The numbers that fix a network's shape; `networks.build_network` checks and makes them.

    Attributes
    ----------
    dimensions : {2, 3}
        Number of spatial axes.
    in_channels, n_classes : int
        Channels of the image, and classes with background as class 0.
    features : tuple of int
        Channels of each level, finest first.
    strides : tuple of tuple of int
        Step along each spatial axis, in array order ``(k, j, i)``, between a level and the next
        coarser one: one entry fewer than `features`.
    norm : str
        "batch", "instance", "group" or "none".
    dropout : float
        Dropout rate, at the coarsest level and before the classifier.
    dropout_everywhere : bool
        Whether dropout follows every convolution instead, but the classifier and the upsampling ones.
    deep_supervision : bool
        Whether the coarser decoder levels have classifiers of their own.
    """

    dimensions: int
    in_channels: int
    n_classes: int
    features: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    norm: str
    dropout: float
    dropout_everywhere: bool = False
    deep_supervision: bool = False

    @property
    def n_levels(self) -> int:
        """Number of resolutions."""
        return len(self.features)

    @property
    def divisor(self) -> tuple[int, ...]:
        """What the spatial size must be divisible by, per axis: the product of the strides."""
        return tuple(prod(stride[axis] for stride in self.strides) for axis in range(self.dimensions))

    @property
    def block_dropout(self) -> float:
        """Dropout rate after each convolution."""
        return self.dropout if self.dropout_everywhere else 0.0

    @property
    def ends_dropout(self) -> float:
        """Dropout rate at the coarsest level and before the classifier."""
        return 0.0 if self.dropout_everywhere else self.dropout

    def channels_into(self, level: int) -> int:
        """Channels of what enters a level of the encoder."""
        return self.features[level - 1] if level else self.in_channels

    def stride_into(self, level: int) -> tuple[int, ...]:
        """Step with which the encoder enters a level, 1 for the finest."""
        return self.strides[level - 1] if level else (1,) * self.dimensions

    def kernel(self, level: int) -> tuple[int, ...]:
        """Size of the convolutions of a level: 3, but 1 across thick slices.

        An axis that is left alone while the others are pooled is an axis of thick slices. Until
        its first pooling its neighbouring voxels are farther apart than the others', and the
        convolutions stay within the slice (the rule of nnU-Net; Isensee et al., Nat Methods 2021).
        """
        return tuple(1 if level < self._first_pooled_level(axis) else 3 for axis in range(self.dimensions))

    def _first_pooled_level(self, axis: int) -> int:
        steps = [stride[axis] for stride in self.strides]
        return next((level for level, step in enumerate(steps) if step > 1), 0)


class Features(NamedTuple):
    """What `SegmentationNetwork.forward_features` returns.

    Attributes
    ----------
    logits : torch.Tensor
        ``(B, n_classes, *spatial)``.
    embedding : torch.Tensor
        ``(B, features[0], *spatial)``: what the classifier sees, one vector a voxel.
    """

    logits: Tensor
    embedding: Tensor


class SegmentationNetwork(nn.Module, ABC):
    """Base of all networks: runs encoder, decoder and classifiers that its subclasses fill in.

    A subclass appends to `encoder` one stage a level, finest first, each but the first beginning
    with the downsampling; and to `upsamplings` and `decoder` one a level but the coarsest, coarse
    to fine; and then calls `_finish`. It says in `_join` how a skip meets the upsampled map.

    Parameters
    ----------
    plan : NetworkPlan
        Kept as the attribute `plan`.
    """

    def __init__(self, plan: NetworkPlan):
        super().__init__()
        self.plan = plan
        self.encoder = nn.ModuleList()
        self.upsamplings = nn.ModuleList()
        self.decoder = nn.ModuleList()
        self.bottleneck_dropout = channel_dropout(plan.dimensions, plan.ends_dropout)
        self.embedding_dropout = channel_dropout(plan.dimensions, plan.ends_dropout)
        self.classifier = self._make_classifier(plan.features[0])
        self.deep_classifiers = nn.ModuleList(
            self._make_classifier(n) for n in (plan.features[1:-1] if plan.deep_supervision else ())
        )

    @property
    def n_classes(self) -> int:
        """Number of classes, background included."""
        return self.plan.n_classes

    @property
    def divisor(self) -> tuple[int, ...]:
        """What the spatial size must be divisible by, per axis in array order ``(k, j, i)``."""
        return self.plan.divisor

    @property
    def embedding_channels(self) -> int:
        """Number of channels of the embedding."""
        return self.plan.features[0]

    @property
    def n_parameters(self) -> int:
        """Number of trained numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images.

        Parameters
        ----------
        x : torch.Tensor
            ``(B, in_channels, *spatial)``, each spatial size a multiple of `divisor`.

        Returns
        -------
        torch.Tensor
            ``(B, n_classes, *spatial)``, in the autocast type if there is one.

        Raises
        ------
        SettingsError
            If the image has the wrong number of channels or axes, or a size that can't be pooled.
        """
        return self.classifier(self._decode(x)[0])

    def forward_features(self, x: Tensor) -> Features:
        """Logits of a batch of images, and the dense map that the classifier makes them from."""
        embedding = self._decode(x)[0]
        return Features(self.classifier(embedding), embedding)

    def forward_deep(self, x: Tensor) -> list[Tensor]:
        """Logits of every decoder level, finest first, each at its own resolution.

        Without deep supervision the list holds the logits of `forward` alone.
        """
        features, coarser = self.forward_levels(x)
        return [features.logits, *coarser]

    def forward_levels(self, x: Tensor) -> tuple[Features, list[Tensor]]:
        """What `forward_features` returns, and the logits of the coarser decoder levels, finest first."""
        finest, *others = self._decode(x)
        coarser = [classify(level_map) for classify, level_map in zip(self.deep_classifiers, others, strict=False)]
        return Features(self.classifier(finest), finest), coarser

    def _decode(self, x: Tensor) -> list[Tensor]:
        """The decoder's maps, finest first."""
        self._check(x)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        x = self.bottleneck_dropout(skips.pop())
        maps = []
        for upsample, stage in zip(self.upsamplings, self.decoder, strict=True):
            x = stage(self._join(upsample(x), skips.pop()))
            maps.append(x)
        maps[-1] = self.embedding_dropout(maps[-1])
        return maps[::-1]

    @abstractmethod
    def _join(self, upsampled: Tensor, skip: Tensor) -> Tensor:
        """What a decoder's stage gets of the coarser map and the encoder's; each architecture has its own way."""

    def _make_classifier(self, n_features: int) -> nn.Module:
        return CONVOLUTION[self.plan.dimensions](n_features, self.plan.n_classes, 1)

    def _finish(self) -> None:
        """Initialise the weights, once every layer exists."""
        initialise(self)

    def _check(self, x: Tensor) -> None:
        plan, spatial = self.plan, tuple(x.shape[2:])
        if len(spatial) != plan.dimensions or x.shape[1] != plan.in_channels:
            raise SettingsError(
                f"The network takes images of {plan.in_channels} channel(s) and {plan.dimensions} axes, "
                f"but got an array of shape {tuple(x.shape)}.",
                "Prepare the image as the model's plan says.",
            )
        if any(size % divisor or not size for size, divisor in zip(spatial, plan.divisor, strict=True)):
            raise SettingsError(
                f"The network can't pool an image of size {spatial}.",
                f"Pad or crop it to multiples of {plan.divisor}.",
            )
