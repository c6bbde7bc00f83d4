"""Embedding Matching: where the teacher is unsure, voxels take the class whose annotated voxels look like them.

After Xie, Willems, Lessmann, Gibbons, De Massari: "Voxel-wise embedding correspondence" (MIDL 2024, PMLR 250:1741-1753,
arXiv 2407.04638), an uncertainty-aware mean teacher. No code was published; where the paper is silent, the choices are
this project's.

The schedule. In the paper one ramp exp(-5 (1 - T/T_N)^2) over the whole training raises the threshold of certainty and
the weights of the unlabeled losses alike; ``published_schedule=True`` does that. By default annotations train alone at
first, as with every method here, and the weights then rise quickly. Then the threshold must not follow the weights: at
its end it is ln 2, where of two classes nothing is uncertain and matching has nothing left to do. So the threshold
takes the rest of the training to rise, with T counted from where the unlabeled losses join.

The means. In the paper L_NN and L_EN are means over the unreliable voxels; ``over_unreliable=True`` does that. They are
few, 4 % at first and less and less, so one of them weighs twenty to hundreds of times what a reliable one does, and
what matching gets wrong beside an organ floods it: on the left atrium, four labeled scans and no dropout, Dice of
validation scans fell from 0.82 without matching to 0.65 (precision 0.50), whether references were averaged, searched
for the nearest, or drawn from everywhere. By default the sums are divided by all voxels: 0.81 (one run each).

The middle. Features are hardly ever far below zero, so all cosines are high, and the mean of diverse references, as
those of background are, is shorter than that of a compact class: background hardly ever wins. The paper has one class
beside it; with more, embeddings are compared as seen from the middle of the classes' means (`centred`). Of ACDC's
unreliable voxels, 80 % of them background, matching said so of 19 %, centred of 66 %, the teacher of 57 %. Dice with
matching as published 0.658, centred 0.727, without matching 0.734 (one run each, one fold).

Weights and dropout. The paper's are 0.25, 0.125 and 0.15. Four times the weights together with a third of the dropout
gave 0.802 and 0.844 with two draws of labeled scans, the paper's 0.783 and 0.834 (3.5 mm, one run each).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...labels import IGNORE
from ...method_settings import EmbeddingMatchingSettings
from ...training_settings import TrainingSettings
from ..cosines import SHORTEST, cosines
from ..losses import ramp_sigmoid, softmax_entropy, weighted_cross_entropy, winners
from ..masked_mean import MaskedMean, masked_mean
from ..plan import Plan
from ..sampling import Batch
from .base import Losses, Method, Step, noisy, softmax
from .ua_mt import monte_carlo_passes, uncertainty_threshold

References = dict[int, Tensor]
"""Of each class that is there, embeddings of sampled voxels: ``(l, k, D)``."""


@dataclass(frozen=True)
class TeacherView:
    """What M noisy passes of the teacher say, ``(B, *spatial)``: yhat_t and H."""

    labels: Tensor
    uncertainty: Tensor

    @classmethod
    def of_passes(cls, logits: Tensor) -> TeacherView:
        """From logits ``(M, B, C, *spatial)``: argmax of the mean probability, mean of the passes' entropies."""
        flat = logits.flatten(0, 1)
        passes = logits.shape[:2]
        mean = softmax(flat).unflatten(0, passes).mean(dim=0)
        return cls(winners(mean).to(torch.uint8), softmax_entropy(flat).unflatten(0, passes).mean(dim=0))


class EmbeddingMatching(Method):
    """``L = L_S + w_UA L_UA + w_PS (L_NN + L_EN)``."""

    name = "embedding_matching"
    uses_unlabeled = True
    learns_beside_annotations = True

    def __init__(self, settings: TrainingSettings, plan: Plan):
        super().__init__(settings, plan)
        self.options = settings.embedding_matching

    @classmethod
    def network_needs(cls, settings: TrainingSettings) -> dict[str, Any]:
        return {"dropout": settings.embedding_matching.dropout, "dropout_everywhere": True}

    def unlabeled_weight(self, fraction: float) -> float:
        if self.options.uncertainty_weight == 0 and not self._matches:
            return 0.0
        return ramp_sigmoid(fraction) if self.options.published_schedule else super().unlabeled_weight(fraction)

    def threshold(self, fraction: float) -> float:
        """lambda_T = (3/4 + ramp(T, 1/4)) ln 2."""
        return uncertainty_threshold(fraction if self.options.published_schedule else self.unlabeled_progress(fraction))

    @property
    def _matches(self) -> bool:
        return self.options.pseudo_weight > 0 and (self.options.matching_loss or self.options.entropy_loss)

    @property
    def is_centred(self) -> bool:
        """Whether embeddings are compared as seen from the middle of the classes."""
        wish = self.options.centred
        return self.options.kernel == "cosine" and (wish == "on" or (wish == "auto" and self.plan.n_classes > 2))

    def training_step(self, step: Step) -> Losses:
        weight = self.unlabeled_weight(step.fraction)
        if weight == 0:
            image = noisy(step.strong(step.labeled.image), self.options.student_noise)
            return self.annotated_losses(step.student(image), step.labeled)

        teacher = TeacherView.of_passes(
            monte_carlo_passes(step, step.rest.image, self.options.passes, self.options.teacher_noise)
        )
        unreliable = teacher.uncertainty >= self.threshold(step.fraction)
        image = step.strong(step.all.image)
        logits, embedding = step.student_features(noisy(image, self.options.student_noise))
        (labeled, logits), query = step.split(logits), step.split(embedding)[1]
        l_ua = weighted_cross_entropy(logits, teacher.labels, ~unreliable).value
        losses = self.annotated_losses(labeled, step.labeled).plus(
            weight * self.options.uncertainty_weight * l_ua,
            {"L_UA": l_ua, "unreliable": unreliable.float().mean()},
        )
        if self._matches:
            l_nn, l_en = self.matching_losses(step, logits, query, teacher, unreliable)
            losses = losses.plus(weight * self.options.pseudo_weight * (l_nn + l_en), {"L_NN": l_nn, "L_EN": l_en})
        return losses

    def matching_losses(
        self, step: Step, logits: Tensor, query: Tensor, teacher: TeacherView, unreliable: Tensor
    ) -> tuple[Tensor, Tensor]:
        """L_NN and L_EN: cross-entropy with the matched class, and entropy of the similarities, on unreliable voxels.

        Only voxels are matched whose class in the teacher's eyes has references, and only where two classes have some;
        else a class that a patch doesn't show could never win.

        Parameters
        ----------
        logits, query : torch.Tensor
            The student's logits ``(B, C, *spatial)`` and embeddings ``(B, D, *spatial)`` of unlabeled patches.
        """
        options = self.options
        wanted = torch.ones_like(unreliable) if options.entropy_everywhere else unreliable
        nothing = torch.zeros((), device=logits.device)
        if not wanted.any():
            return nothing, nothing
        references = self.references(step)
        matched = torch.full_like(teacher.labels, IGNORE)
        entropies, chosen = torch.zeros_like(unreliable, dtype=torch.float32), torch.zeros_like(unreliable)
        for index, each in enumerate(references_for(references, len(query), options.pooled, step.unlabeled is None)):
            if len(each) < 2:
                continue
            classes = torch.tensor(sorted(each), dtype=torch.uint8, device=query.device)
            chosen[index] = wanted[index] & torch.isin(teacher.labels[index], classes)
            similarity = similarities(query[index], each, options, chosen[index], centred=self.is_centred)
            matched[index] = classes[similarity.detach().argmax(dim=0)]
            entropies[index] = softmax_entropy(similarity[None] / options.temperature)[0]
        l_nn = weighted_cross_entropy(logits, matched, unreliable & chosen) if options.matching_loss else None
        l_en = masked_mean(entropies, chosen) if options.entropy_loss else None
        return tuple(nothing if each is None else self._mean(each, chosen).value for each in (l_nn, l_en))

    def _mean(self, loss: MaskedMean, voxels: Tensor) -> MaskedMean:
        """A loss of unreliable voxels as the mean over all voxels, or as published over themselves."""
        if self.options.over_unreliable:
            return loss
        return MaskedMean(loss.numerator, loss.numerator.new_tensor(float(voxels.numel())))

    def references(self, step: Step) -> list[References]:
        """References of each labeled patch, embedded by the teacher on a noisy copy, with dropout as in training."""
        image = noisy(step.labeled.image, self.options.teacher_noise)
        embedding = step.teacher_features(image, dropout=True)[1].float().movedim(1, -1)  # (B, *spatial, D)
        candidates = reference_candidates(step.labeled, self.plan.n_classes, self.options.band)
        return [
            {
                label: sampled[torch.from_numpy(rows).to(sampled.device)]
                for label, sampled in ((label, embedding[index][mask]) for label, mask in masks.items())
                for rows in [draw_references(len(sampled), self.options, step.numbers)]
            }
            for index, masks in enumerate(candidates)
        ]


def reference_candidates(batch: Batch, n_classes: int, band: float) -> list[dict[int, Tensor]]:
    """Voxels ``(*spatial)`` bool that may be references, of each patch and each class that it shows.

    In a dense patch these are the voxels just inside a class's surface: at most `band` voxels from an annotated voxel
    of another class. In a scribbled one (less than half annotated), and for a class that fills its patch, these are all
    its annotated voxels.
    """
    annotation = batch.annotation
    annotated = annotation != IGNORE
    is_dense = annotated.flatten(1).float().mean(dim=1) >= 0.5
    found: list[dict[int, Tensor]] = [{} for _ in range(len(batch))]
    for label in range(n_classes):
        inside = annotation == label
        shell = inside & is_within(annotated & ~inside, band)
        for index in torch.nonzero(inside.flatten(1).any(dim=1)).flatten().tolist():
            use_shell = bool(is_dense[index]) and bool(shell[index].any())
            found[index][label] = (shell if use_shell else inside)[index]
    return found


def is_within(mask: Tensor, distance: float) -> Tensor:
    """Voxels at most so far from a mask ``(B, *spatial)``: exact Euclidean distances in voxels, one axis at a time."""
    reach = int(distance)
    far = float((distance + 1) ** 2)
    squared = torch.where(mask, 0.0, far)
    for axis in range(1, mask.dim()):
        padding = [0] * (2 * (mask.dim() - 1))
        padding[2 * (mask.dim() - 1 - axis) : 2 * (mask.dim() - axis)] = [reach, reach]
        padded = functional.pad(squared, padding, value=far)
        for offset in range(-reach, reach + 1):
            shifted = padded.narrow(axis, reach + offset, mask.shape[axis])
            squared = torch.minimum(squared, shifted + float(offset**2))
    return squared <= distance**2


def draw_references(count: int, options: EmbeddingMatchingSettings, numbers: np.random.Generator) -> np.ndarray:
    """Rows ``(l, k)`` of `count` candidates: fresh ones a draw, none twice in a draw unless there are too few."""
    k = options.references
    return np.stack([numbers.choice(count, k, replace=count < k) for _ in range(options.draws)])


def references_for(
    references: Sequence[References], count: int, pooled: bool, are_same: bool = False
) -> list[References]:
    """The references of each of `count` unlabeled patches.

    Unlabeled patch i takes those of labeled patch i, and of classes that it lacks those of the other patches; pooled,
    all take those of all. Where they are the same patches, each takes those of the next one, and none its own: it would
    be matched with itself.
    """
    if are_same and len(references) > 1:
        others = [[*references[index + 1 :], *references[:index]] for index in range(count)]
        return [_together(each) if pooled else {**_together(each), **each[0]} for each in others]
    together = _together(references)
    if pooled:
        return [together] * count
    return [{**together, **references[index % len(references)]} for index in range(count)]


def _together(references: Sequence[References]) -> References:
    """Each class's references of all patches that show it."""
    classes = sorted(set().union(*references))
    return {label: torch.cat([each[label] for each in references if label in each]) for label in classes}


def similarities(
    query: Tensor,
    references: References,
    options: EmbeddingMatchingSettings,
    where: Tensor | None = None,
    *,
    centred: bool = False,
) -> Tensor:
    """K_c(v): mean over draws of the mean (or maximum) over k of how similar references and query are.

    With the cosine and the mean this is a nearest-mean rule: the product of the normalised query with the mean of the
    normalised references, however many there are.

    Parameters
    ----------
    query : torch.Tensor
        ``(D, *spatial)``, the student's embeddings of a patch.
    references : dict
        The teacher's, ``(l, k, D)`` a class.
    where : torch.Tensor, optional
        ``(*spatial)`` bool, the voxels that are asked for; what others get means nothing.
    centred : bool
        Subtract the middle, the mean of the classes' mean references, from all embeddings first.

    Returns
    -------
    torch.Tensor
        ``(classes, *spatial)`` float32, classes in ascending order.
    """
    classes = [references[label].float() for label in sorted(references)]
    voxels = query.flatten(1)
    middle = None
    if centred:
        middle = torch.stack([each.flatten(0, 1).mean(dim=0) for each in classes]).mean(dim=0)
        classes = [each - middle for each in classes]
    if options.kernel == "cosine" and options.reduce == "mean":
        found = cosines(torch.stack([unit(each).flatten(0, 1).mean(dim=0) for each in classes]), voxels, middle)
    else:
        asked = torch.ones(voxels.shape[1], dtype=torch.bool, device=query.device)
        if where is not None:
            asked = where.flatten().clone()  # autograd keeps it, and the caller goes on writing into what it is part of
        rows = voxels[:, asked].T.float()
        found = torch.zeros((len(classes), len(asked)), device=query.device)
        found[:, asked] = _every_similarity(rows if middle is None else rows - middle, classes, options)
    return found.unflatten(1, query.shape[1:])


def _every_similarity(query: Tensor, classes: Sequence[Tensor], options: EmbeddingMatchingSettings) -> Tensor:
    """Similarities ``(classes, voxels)`` of rows ``(voxels, D)`` by way of those with each reference."""
    if options.kernel == "cosine":
        query, classes = unit(query), [unit(each) for each in classes]
    columns = []
    for each in classes:
        flat = each.flatten(0, 1)
        kernel = query @ flat.T if options.kernel == "cosine" else 1 / (1 + torch.cdist(query, flat).square())
        kernel = kernel.unflatten(1, each.shape[:2])  # (voxels, l, k)
        over_k = kernel.mean(dim=2) if options.reduce == "mean" else kernel.amax(dim=2)
        columns.append(over_k.mean(dim=1))
    return torch.stack(columns)


def unit(vectors: Tensor) -> Tensor:
    """Vectors ``(..., D)`` of length 1."""
    return functional.normalize(vectors, dim=-1, eps=SHORTEST)
