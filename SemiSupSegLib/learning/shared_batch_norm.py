"""Batch normalisation of a batch whose samples lie in several processes, as one process would normalise it.

torch's own `SyncBatchNorm` does this on GPUs only.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from .collectives import collective


class SharedBatchNorm(_BatchNorm):
    """Batch norm over the samples of all processes, which must all call it; in evaluation like any other.

    Parameters
    ----------
    like : torch.nn.BatchNorm2d or torch.nn.BatchNorm3d
        What it takes the place of, with its weights and names.
    """

    def __init__(self, like: _BatchNorm):
        super().__init__(like.num_features, like.eps, like.momentum)
        self.load_state_dict(like.state_dict())

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of axes will do."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count, mean, variance = _moments(x)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return _Normalised.apply(x, self.weight, self.bias, mean, variance, count, self.eps)


def share_batch_statistics(network: nn.Module) -> nn.Module:
    """A network whose batch norms are `SharedBatchNorm`; changed in place."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(module, name, SharedBatchNorm(child))
    return network


@torch.no_grad()
def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number of values a channel, their mean and their variance ``(C,)`` float32, over all processes."""
    axes = [0, *range(2, x.dim())]
    variance, mean = torch.var_mean(x.float(), axes, correction=0)
    own = torch.cat([mean.new_tensor([x.numel() / x.shape[1]]), mean, variance])
    parts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    with collective():
        distributed.all_gather(parts, own)
    counts, means, variances = torch.stack(parts).split([1, len(mean), len(mean)], dim=1)
    count = counts.sum()
    mean = (counts * means).sum(dim=0) / count
    return count, mean, (counts * (variances + (means - mean).square())).sum(dim=0) / count


class _Normalised(torch.autograd.Function):
    """``w (x - m) / s + b`` with mean m and deviation s of all processes, which depend on every sample.

    With g the gradient of the output and n the number of values a channel, that of the input is
    ``w/s (g - sum(g)/n - xhat sum(g xhat)/n)``: the first term is that of constant m and s, and the sums are those of
    all processes. Weights get the gradient of the own samples, to be added up with all others.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, count: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        return _normalised(x, weight, bias, mean, variance, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([of_weight, of_bias])
        with collective():
            distributed.all_reduce(sums)
        sums *= weight / (variance + ctx.eps).sqrt() / count
        of_x = of_x - _normalised(x, *sums, mean, variance, ctx.eps)
        return of_x, of_weight, of_bias, None, None, None, None


def _normalised(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    return torch.batch_norm(x, weight, bias, mean, variance, False, 0.0, eps, torch.backends.cudnn.enabled)
