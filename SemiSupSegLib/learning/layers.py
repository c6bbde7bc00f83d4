"""The pieces every network is built from: convolution, normalisation, activation, dropout, in 2D or 3D."""

from __future__ import annotations

import copy
import itertools
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import SettingsError

NORMS = ("batch", "instance", "group", "none")
LEAKY_SLOPE = 0.01
_BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_CHANNEL_DROPOUT = {2: nn.Dropout2d, 3: nn.Dropout3d}
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_THIN = 2


class _ThinInFloat32:
    """A convolution that computes maps of one or two slices in float32 on a CPU.

    There, torch's bfloat16 gradient of the weights reads memory that was never written: in torch 2.13, with kernels of
    3 and a first axis of exactly 2 voxels (1 with stride 2), most gradients were wrong and many NaN. Such maps are
    small, so the better format costs nothing.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, *spatial)`` as every convolution does, in autocast's format."""
        autocast_format = _cpu_autocast_format() if x.shape[2] <= _THIN and x.device.type == "cpu" else None
        if autocast_format is None:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(autocast_format)


def _cpu_autocast_format() -> torch.dtype | None:
    """Number format of autocast on the CPU; None where it is off."""
    if not hasattr(torch, "get_autocast_dtype"):  # torch before 2.4
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


class Conv2d(_ThinInFloat32, nn.Conv2d):
    """Two-dimensional convolution."""


class Conv3d(_ThinInFloat32, nn.Conv3d):
    """Three-dimensional convolution."""


class _SummedForBias(torch.autograd.Function):
    """Leaves a map as it is; the bias that was added to it gets the sum of its gradient."""

    @staticmethod
    def forward(ctx, y: Tensor, bias: Tensor) -> Tensor:
        ctx.mark_dirty(y)
        ctx.bias_type = bias.dtype
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.sum((0, *range(2, gradient.dim()))).to(ctx.bias_type)


class _QuickBias:
    """A transposed convolution without padding whose bias costs little to train on a CPU.

    Asked for the gradient of a bias, torch 2.13 computes the other gradients in a slow way there: 17 instead of 6 ms
    forward and backward, to a bfloat16 map of 2x16x32x56x56 in channels-last on one core.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, *spatial)`` as torch's own does."""
        if self.bias is None or x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x)
        transpose = functional.conv_transpose3d if x.dim() == 5 else functional.conv_transpose2d
        return _SummedForBias.apply(transpose(x, self.weight, self.bias.detach(), self.stride), self.bias)


class ConvTranspose2d(_QuickBias, nn.ConvTranspose2d):
    """Two-dimensional transposed convolution without padding."""


class ConvTranspose3d(_QuickBias, nn.ConvTranspose3d):
    """Three-dimensional transposed convolution without padding."""


CONVOLUTION = {2: Conv2d, 3: Conv3d}
TRANSPOSED_CONVOLUTION = {2: ConvTranspose2d, 3: ConvTranspose3d}


class InstanceNorm(nn.Module):
    """Instance normalisation with a learned scale and shift, fast in every memory format.

    torch copies a channels-last map to channels-first and back for its own instance norm. An
    instance norm is a batch norm of one sample, and batch norm is native in channels-last: so
    such a map is normalised sample by sample. Forward and backward on 4x16x40x56x40 and two CPU
    cores: 4.0 against 5.7 ms in bfloat16, 5.4 against 12.5 ms in float32.

    It has no buffers, so that an EMA teacher has nothing but weights to average.

    Parameters
    ----------
    n_channels : int
        Number of channels C of the ``(B, C, *spatial)`` maps.
    eps : float
        Added to the variance.
    """

    def __init__(self, n_channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(n_channels))
        self.bias = nn.Parameter(torch.zeros(n_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, *spatial)`` to the same shape, dtype and memory format."""
        channels_last = _CHANNELS_LAST[x.ndim]
        if x.is_contiguous(memory_format=channels_last) and not x.is_contiguous():
            return torch.cat([self._normalise_one(sample) for sample in x.split(1)])
        return torch.instance_norm(
            x, self.weight, self.bias, None, None, True, 0.0, self.eps, torch.backends.cudnn.enabled
        )

    def _normalise_one(self, sample: Tensor) -> Tensor:
        return torch.batch_norm(
            sample, self.weight, self.bias, None, None, True, 0.0, self.eps, torch.backends.cudnn.enabled
        )

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"


class GroupNorm(nn.GroupNorm):
    """Group normalisation, eight channels a group where they divide, else one group.

    It works on a channels-first copy, because torch's backward pass in channels-last takes 68
    instead of 3 ms (4x16x40x56x40 in bfloat16 on two CPU cores).

    Parameters
    ----------
    n_channels : int
        Number of channels C of the ``(B, C, *spatial)`` maps.
    """

    def __init__(self, n_channels: int):
        n_groups, rest = divmod(n_channels, 8)
        super().__init__(1 if rest else n_groups, n_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, *spatial)`` to the same shape and dtype."""
        return super().forward(x.contiguous()).to(x.dtype)


def normalisation(kind: str, dimensions: int, n_channels: int) -> nn.Module:
    """The normalisation layer called `kind` ("batch", "instance", "group" or "none")."""
    if kind == "batch":
        return _BATCH_NORM[dimensions](n_channels)
    if kind == "instance":
        return InstanceNorm(n_channels)
    if kind == "group":
        return GroupNorm(n_channels)
    if kind == "none":
        return nn.Identity()
    raise SettingsError(f"There is no normalisation called {kind!r}.", f"Choose one of {', '.join(NORMS)}.")


def channel_dropout(dimensions: int, rate: float) -> nn.Module:
    """Dropout of whole feature maps, or nothing at rate 0.

    Neighbouring voxels of a feature map say nearly the same, so dropping single ones removes
    little (Tompson et al., CVPR 2015); one random number a channel also costs nothing.
    """
    return _CHANNEL_DROPOUT[dimensions](rate) if rate > 0 else nn.Identity()


class ConvolutionBlock(nn.Sequential):
    """Convolution, normalisation, activation and dropout, in this order.

    Dropout comes last, because a normalisation after it would undo its rescaling.

    Parameters
    ----------
    dimensions : {2, 3}
        Number of spatial axes.
    n_in, n_out : int
        Channels before and after.
    kernel, stride : tuple of int
        Size and step along each spatial axis; "same" padding.
    norm : str
        See `normalisation`.
    activation : torch.nn.Module
        For example ``nn.ReLU(inplace=True)``, or ``nn.Identity()`` for none.
    dropout : float
        Rate of `channel_dropout`.
    bias : bool or None
        Whether the convolution has a bias; None gives it one only when no normalisation follows.
    """

    def __init__(
        self,
        dimensions: int,
        n_in: int,
        n_out: int,
        *,
        kernel: tuple[int, ...],
        stride: tuple[int, ...] | None = None,
        norm: str = "instance",
        activation: nn.Module | None = None,
        dropout: float = 0.0,
        bias: bool | None = None,
    ):
        padding = tuple((size - 1) // 2 for size in kernel)
        super().__init__(
            CONVOLUTION[dimensions](
                n_in,
                n_out,
                kernel,
                stride=stride or (1,) * dimensions,
                padding=padding,
                bias=norm == "none" if bias is None else bias,
            ),
            normalisation(norm, dimensions, n_out),
            nn.LeakyReLU(LEAKY_SLOPE, inplace=True) if activation is None else activation,
            channel_dropout(dimensions, dropout),
        )


def with_folded_norms(network: nn.Module) -> nn.Module:
    """A copy of a network for evaluation only, its batch norms folded into the convolutions before them.

    In evaluation a batch norm multiplies and shifts each channel by fixed numbers, which the convolution can do as
    well: 3 % less time in float32 and 7 % in bfloat16 (U-Net of 16 to 128 channels on a CPU).
    """
    network = copy.deepcopy(network)
    for block in network.modules():
        if not isinstance(block, nn.Sequential):
            continue
        for index, (convolution, norm) in enumerate(itertools.pairwise(block)):
            is_transposed = isinstance(convolution, tuple(TRANSPOSED_CONVOLUTION.values()))
            is_convolution = is_transposed or isinstance(convolution, tuple(CONVOLUTION.values()))
            if is_convolution and isinstance(norm, tuple(_BATCH_NORM.values())):
                block[index] = fuse_conv_bn_eval(convolution, norm, transpose=is_transposed)
                block[index + 1] = nn.Identity()
    return network


def initialise(network: nn.Module) -> None:
    """He's initialisation of every convolution: normal weights of variance 2 / fan-in, biases 0.

    A transposed convolution whose kernel is its stride sends each voxel to places of its own, so
    its fan-in is the number of its input channels.

    References
    ----------
    He K. et al., "Delving Deep into Rectifiers", ICCV 2015.
    """
    for module in network.modules():
        if isinstance(module, tuple(CONVOLUTION.values())):
            fan_in = module.weight[0].numel()
        elif isinstance(module, tuple(TRANSPOSED_CONVOLUTION.values())):
            fan_in = module.in_channels
        else:
            continue
        nn.init.normal_(module.weight, std=sqrt(2 / fan_in))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
