"""Every network of this package by its name.

>>> import torch
>>> network = build_network("unet", dimensions=2, in_channels=1, n_classes=3, features=(8, 16))
>>> network.divisor
(2, 2)
>>> network(torch.zeros(1, 1, 6, 10)).shape
torch.Size([1, 3, 6, 10])
"""

from __future__ import annotations

from ..errors import SettingsError
from .layers import NORMS
from .segmentation_network import Features, NetworkPlan, SegmentationNetwork
from .unet import ResidualUNet, UNet
from .vnet import VNet

__all__ = ["NETWORKS", "Features", "SegmentationNetwork", "build_network"]

NETWORKS: dict[str, type[SegmentationNetwork]] = {"vnet": VNet, "unet": UNet, "residual_unet": ResidualUNet}
_DEFAULT_LEVELS = 5
_MOST_FEATURES = {2: 512, 3: 320}  # nnU-Net's caps


def build_network(
    kind: str,
    *,
    dimensions: int,
    in_channels: int = 1,
    n_classes: int,
    features: tuple[int, ...] | int = 16,
    norm: str = "instance",
    dropout: float = 0.0,
    pooling_strides: tuple[tuple[int, ...], ...] | None = None,
    deep_supervision: bool = False,
    dropout_everywhere: bool = False,
) -> SegmentationNetwork:
    """Make a network with freshly drawn weights.

    Parameters
    ----------
    kind : {"vnet", "unet", "residual_unet"}
        See `VNet`, `UNet` and `ResidualUNet`. The V-Net of UA-MT and SGRS-Net is
        ``("vnet", features=16, norm="batch", dropout=0.5)``.
    dimensions : {2, 3}
        Number of spatial axes.
    in_channels : int
        Channels of the image.
    n_classes : int
        At least 2: background is class 0.
    features : tuple of int or int
        Channels of each level, finest first; or those of the finest level, doubled from level to
        level (U-Nets up to 320 in 3D and 512 in 2D), with as many levels as `pooling_strides` asks
        for, 5 without.
    norm : {"batch", "instance", "group", "none"}
        Normalisation after each convolution.
    dropout : float
        Rate in [0, 1) of dropping a feature map, at the coarsest level and before the classifier.
    pooling_strides : tuple of tuple of int, optional
        Step along each spatial axis, in array order ``(k, j, i)``, from each level to the next.
        ``((1, 2, 2), (2, 2, 2))`` pools in-plane first, for thick slices, and keeps the
        convolutions of the first level in-plane too. By default 2 everywhere.
    deep_supervision : bool
        Whether `forward_deep` also classifies the coarser decoder levels.
    dropout_everywhere : bool
        Whether dropout follows every convolution but the classifier and the upsampling ones
        (Embedding Matching: rate 0.15), instead of the two places above.

    Returns
    -------
    SegmentationNetwork
        In training mode, on the CPU, float32.

    Raises
    ------
    SettingsError
        If a name is unknown or a number is out of its range.
    """
    if kind not in NETWORKS:
        raise SettingsError(f"There is no network called {kind!r}.", f"Choose one of {', '.join(NETWORKS)}.")
    _check("dimensions", dimensions, dimensions in (2, 3), "2 or 3")
    _check("in_channels", in_channels, in_channels >= 1, "at least 1")
    _check("n_classes", n_classes, n_classes >= 2, "at least 2, background included")
    _check("norm", norm, norm in NORMS, f"one of {', '.join(NORMS)}")
    _check("dropout", dropout, 0 <= dropout < 1, "at least 0 and below 1")
    features, strides = _levels(kind, dimensions, features, pooling_strides)
    plan = NetworkPlan(
        dimensions=dimensions, in_channels=in_channels, n_classes=n_classes, features=features, strides=strides,
        norm=norm, dropout=dropout, dropout_everywhere=dropout_everywhere, deep_supervision=deep_supervision,
    )  # fmt: skip
    return NETWORKS[kind](plan)


def _levels(
    kind: str, dimensions: int, features: tuple[int, ...] | int, strides: tuple[tuple[int, ...], ...] | None
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Features of each level and steps between them, completed and checked."""
    if isinstance(features, int):
        n_levels = _DEFAULT_LEVELS if strides is None else len(strides) + 1
        most = features * 2**n_levels if kind == "vnet" else _MOST_FEATURES[dimensions]
        features = tuple(min(features * 2**level, max(most, features)) for level in range(n_levels))
    features = tuple(features)
    if strides is None:
        strides = ((2,) * dimensions,) * (len(features) - 1)
    strides = tuple(tuple(stride) for stride in strides)
    _check("features", features, len(features) >= 2 and min(features) >= 1, "two or more numbers of at least 1")
    _check(
        "pooling_strides",
        strides,
        len(strides) == len(features) - 1 and all(len(stride) == dimensions and min(stride) >= 1 for stride in strides),
        f"{len(features) - 1} steps (one fewer than levels) of {dimensions} numbers of at least 1",
    )
    return features, strides


def _check(name: str, value: object, holds: bool, wanted: str) -> None:
    if not holds:
        raise SettingsError(f"The network setting {name} is {value!r}.", f"It must be {wanted}.")
