"""Computing in float64 what asks for float32, so that equal work has equal results."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    """Whatever asks for float32 gets float64: without rounding to speak of, equal steps stay equal."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with (
            mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
            mock.patch.object(torch, "float32", torch.float64),
        ):
            yield
    finally:
        torch.set_default_dtype(usual)
