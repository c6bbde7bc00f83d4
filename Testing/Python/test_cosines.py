"""Cosines of embeddings: equal to the plain form, gradient included, whatever the type and the size of the parts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from SemiSupSegLib.learning import cosines as module
from SemiSupSegLib.learning.cosines import cosines


def plain(vectors: torch.Tensor, embeddings: torch.Tensor, middle: torch.Tensor | None = None) -> torch.Tensor:
    seen = embeddings.float() if middle is None else embeddings.float() - middle[:, None]
    return vectors @ functional.normalize(seen, dim=0, eps=module.SHORTEST)


def made(n: int = 3, channels: int = 8, voxels: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, channels, generator=generator), torch.randn(channels, voxels, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at_once", [1, 7, 50, 1000])
@pytest.mark.parametrize("middle", [None, torch.linspace(-1, 2, 8)])
def test_cosines_and_their_gradient_are_those_of_the_plain_form(dtype, at_once, middle, monkeypatch):
    monkeypatch.setattr(module, "_VOXELS_IN_CACHE", at_once)
    vectors, embeddings = made()
    found, gradients = [], []
    for form in (plain, cosines):
        leaf = embeddings.to(dtype).requires_grad_()
        found.append(form(vectors, leaf, middle))
        gradients.append(torch.autograd.grad(found[-1].pow(3).sum(), leaf)[0])
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*gradients)
    assert found[1].dtype == torch.float32
    assert gradients[1].dtype == dtype


def test_embedding_of_length_zero_gets_zero_and_a_finite_gradient():
    vectors, embeddings = made()
    embeddings[:, 3] = 0
    embeddings[:, 4] *= 1e-9
    found, gradients = [], []
    for form in (plain, cosines):
        leaf = embeddings.clone().requires_grad_()
        found.append(form(vectors, leaf))
        gradients.append(torch.autograd.grad(found[-1].sum(), leaf)[0])
    assert not found[1][:, 3].any()
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*gradients)
    assert torch.isfinite(gradients[1]).all()


def test_in_the_middle_an_embedding_has_no_direction_and_a_finite_gradient():
    embeddings = torch.tensor([[1.0, 2.0], [1.0, 0.0]], requires_grad=True)
    found = cosines(torch.eye(2), embeddings, embeddings[:, 0].detach())
    assert found.tolist() == [[0.0, pytest.approx(2**-0.5)], [0.0, pytest.approx(-(2**-0.5))]]
    found.sum().backward()
    assert torch.isfinite(embeddings.grad).all()


def test_no_voxels_are_no_problem():
    assert cosines(torch.eye(2), torch.zeros(2, 0)).shape == (2, 0)
