"""Optimisers without the compiler: the same steps, and nothing loaded for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from SemiSupSegLib.learning.light_optimizers import light

KINDS = {
    torch.optim.SGD: {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    torch.optim.Adam: {"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.1},
    torch.optim.AdamW: {"lr": 0.01, "weight_decay": 0.1},
}


def trained(kind: type[torch.optim.Optimizer], steps: int = 5, resume_at: int | None = None) -> list[torch.Tensor]:
    torch.manual_seed(0)
    network, x = nn.Linear(4, 3), torch.randn(7, 4)
    optimizer = kind(network.parameters(), **KINDS[next(each for each in KINDS if issubclass(kind, each))])
    for step in range(steps):
        if step == resume_at:
            state = optimizer.state_dict()
            optimizer = kind(network.parameters(), lr=1.0)
            optimizer.load_state_dict(state)
        optimizer.zero_grad(set_to_none=True)
        network(x).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in network.parameters()]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_steps_are_those_of_torch_to_the_bit_also_after_a_resume(kind):
    for resume_at in (None, 3):
        for ours, theirs in zip(trained(light(kind), resume_at=resume_at), trained(kind), strict=True):
            assert torch.equal(ours, theirs)
            assert ours.requires_grad is False


_TRAINING = """
import sys
import torch
from SemiSupSegLib.learning.trainer import make_optimizer
from SemiSupSegLib.training_settings import OptimizerSettings
for name in ("sgd", "adam", "adamw"):
    network = torch.nn.Linear(2, 2)
    optimizer = make_optimizer(network, OptimizerSettings(name=name), 0.1)
    optimizer.zero_grad(set_to_none=True)
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""


def test_the_compiler_stays_out_of_training():
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", _TRAINING], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
