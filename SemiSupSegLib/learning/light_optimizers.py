"""torch's optimisers without torch's compiler, which they load at their first step, for a second or two."""

from __future__ import annotations

import functools
import inspect

import torch
from torch.optim import Optimizer


@functools.cache
def light(kind: type[Optimizer]) -> type[Optimizer]:
    """An optimiser class that steps as `kind` does, to the bit, and doesn't load ``torch._dynamo`` for it.

    torch wraps an optimiser's methods so that its compiler leaves them alone, and the wrappers import the compiler.
    Nothing is compiled here, so what they wrap is called without them.
    """
    for method in vars(Optimizer).values():
        inside = getattr(method, "__wrapped__", None)
        if inside is not None:
            inside.__dynamo_disable = inside  # where `torch._disable_dynamo` looks first
    return type(kind.__name__, (kind,), {"step": torch.no_grad()(inspect.unwrap(kind.step))})
