"""Our steps, repeated by a script: what ours drew is recorded, and both begin with the same weights."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import torch

from SemiSupSegLib.learning.methods import Step
from SemiSupSegLib.learning.trainer import Trainer

from .peer_training import SEED_OF_STUDENT, SEED_OF_TEACHER, Replay, seed_forward_passes


class Recorder:
    """Makes steps of a trainer and keeps what a script needs to repeat them.

    Dropout isn't recorded: both sides' forward passes draw it from the same seeds.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self._prepare = trainer._prepare
        self._step: Step | None = None
        trainer._prepare = self._remembering
        for network, seed in ((trainer.student, SEED_OF_STUDENT), (trainer.teacher, SEED_OF_TEACHER)):
            seed_forward_passes(network.encoder[0], seed)  # the trainer calls no network as a whole

    def step(self) -> tuple[dict[str, float], Replay]:
        """One step: its losses, and what it drew."""
        noises: list[np.ndarray] = []
        draw = torch.randn_like

        def remember(image: torch.Tensor) -> torch.Tensor:
            noise = draw(image)
            noises.append(noise.cpu().numpy())
            return noise

        with mock.patch.object(torch, "randn_like", remember):
            values = self.trainer.step()
        batch = self._step.labeled.joined(self._step.unlabeled)
        labels = batch.annotation.cpu().numpy().astype(np.int64)
        labels[len(self._step.labeled) :] = 0  # which scripts load and never use
        draws = {"torch.randn_like": noises}
        if isinstance(self._step.numbers, _RecordedNumbers):
            draws["torch.randn"] = list(draws["torch.randn_like"].pop())  # labeled patches come last, and one by one
            draws |= self._step.numbers.draws
        return values, Replay(batch.image.cpu().numpy(), labels, draws)

    def _remembering(self, fraction: float) -> Step:
        self._step = self._prepare(fraction)
        if self.trainer.method.name == "sgrs":
            self._step.numbers = _RecordedNumbers(self._step.numbers)
        return self._step


class _RecordedNumbers:
    """Random numbers that can be looked up later."""

    def __init__(self, numbers: np.random.Generator):
        self.numbers = numbers
        self.draws: dict[str, list[Any]] = {}

    def permutation(self, length: int) -> np.ndarray:
        drawn = self.numbers.permutation(length)
        self.draws["numpy.random.permutation"] = [drawn]
        return drawn

    def beta(self, a: float, b: float, size: int) -> np.ndarray:
        drawn = self.numbers.beta(a, b, size)
        self.draws["numpy.random.beta"] = list(drawn)
        return drawn


def take_weights(trainer: Trainer, weights: dict[str, list[np.ndarray]]) -> None:
    """Begin with a script's networks, whose layers stand in the order in which they compute."""
    for network, values in ((trainer.student, weights["model"]), (trainer.teacher, weights["ema_model"])):
        decoder = [stage for pair in zip(network.upsamplings, network.decoder, strict=True) for stage in pair]
        ours = [value for stage in (*network.encoder, *decoder, network.classifier)
                for value in stage.state_dict().values()]  # fmt: skip
        with torch.no_grad():
            for mine, value in zip(ours, values, strict=True):
                mine.copy_(torch.from_numpy(value))


def comparable(values: dict[str, float]) -> list[float]:
    """Loss, supervised and unlabeled part, as the scripts have them."""
    if "consistency" in values:
        unlabeled = values["consistency"]
    else:
        unlabeled = 0.5 * (values["regional cross-entropy"] + values["regional dice"])
    return [values["loss"], values["supervised"], unlabeled]
