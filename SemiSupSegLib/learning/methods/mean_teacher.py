"""Mean teacher: the student's probabilities follow those of the average of its own past weights.

After Tarvainen, Valpola: "Mean teachers are better role models" (NeurIPS 2017), whose consistency cost is taken over
all images, annotated or not. So what a scribble leaves open in its image is learned from too.
"""

from __future__ import annotations

from ...training_settings import TrainingSettings
from ..losses import consistency_mse
from ..plan import Plan
from .base import Losses, Method, Step, noisy, softmax


class MeanTeacher(Method):
    """``L = L_S + w(t) J``, ``J = E[ || f(x, theta', eta') - f(x, theta, eta) ||^2 ]``.

    The student's noise eta is the augmentation of grey values, the teacher's eta' is Gaussian; dropout is part of both.
    """

    name = "mean_teacher"
    uses_unlabeled = True
    learns_beside_annotations = True

    def __init__(self, settings: TrainingSettings, plan: Plan):
        super().__init__(settings, plan)
        self.options = settings.mean_teacher

    def unlabeled_weight(self, fraction: float) -> float:
        return super().unlabeled_weight(fraction) if self.options.weight > 0 else 0.0

    def training_step(self, step: Step) -> Losses:
        weight = self.options.weight * self.unlabeled_weight(step.fraction)
        if weight == 0:
            return self.annotated_losses(step.student(step.strong(step.labeled.image)), step.labeled)
        image = step.all.image
        teacher = softmax(step.teacher(noisy(image, self.options.noise), dropout=self.options.teacher_dropout))
        logits = step.student(step.strong(image))
        annotated = self.annotated_losses(step.split(logits)[0], step.labeled)
        consistency = consistency_mse(softmax(logits), teacher).value
        return annotated.plus(weight * consistency, {"consistency": consistency})
