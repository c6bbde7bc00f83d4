"""What a person may choose about a training run and a prediction; every default is the recommended value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from .errors import SettingsError
from .method_settings import (
    EmbeddingMatchingSettings,
    MeanTeacherSettings,
    SGRSSettings,
    SP3Settings,
    UncertaintyAwareMeanTeacherSettings,
)
from .settings import Settings, group, setting

METHODS = ("sp3", "sgrs", "embedding_matching", "mean_teacher", "ua_mt", "partial", "supervised")
"""Every method by the name that ``--method`` takes, the recommended one first."""

DEFAULT_MINUTES = 20.0


@dataclass(frozen=True)
class PlanSettings(Settings):
    """What the plan would derive from the cohort and the device, where a person knows better."""

    dimensions: int | None = setting(None, "2 for slice-wise, 3 for volumetric networks", minimum=2, maximum=3)
    spacing: tuple[float, float, float] | None = setting(
        None, "Voxel spacing to train at, (i, j, k)", minimum=0.01, maximum=50, unit="mm"
    )
    patch: tuple[int, int, int] | None = setting(None, "Patch size, (i, j, k)", minimum=1, maximum=512, unit="voxels")
    batch_size: int | None = setting(None, "Annotated patches in a batch", minimum=1, maximum=64)
    precision: str = setting("auto", "Number format of the forward pass", choices=("auto", "float32", "bfloat16"))
    network: str = setting("auto", "Network architecture", choices=("auto", "unet", "residual_unet", "vnet"))
    features: tuple[int, ...] | None = setting(None, "Feature maps a level, finest first", minimum=1, maximum=1024)
    norm: str = setting("auto", "Normalisation layer", choices=("auto", "batch", "instance", "group", "none"))
    dropout: float | None = setting(None, "Dropout rate of the network", minimum=0, maximum=0.9)


@dataclass(frozen=True)
class OptimizerSettings(Settings):
    """Optimiser and its schedule; rates are functions of the fraction of the training done."""

    name: str = setting("adamw", "Optimiser", choices=("sgd", "adam", "adamw"))
    learning_rate: float | None = setting(None, "Initial rate; by optimiser if empty", minimum=1e-7, maximum=1)
    momentum: float = setting(0.9, "Momentum (first beta of Adam)", minimum=0, maximum=0.999)
    weight_decay: float | None = setting(None, "Weight decay; by optimiser if empty", minimum=0, maximum=1)
    schedule: str = setting("poly", "Course of the rate", choices=("poly", "constant"))
    warmup: float = setting(0.02, "Fraction of the training in which the rate rises", minimum=0, maximum=0.5)
    gradient_clip: float = setting(5.0, "Largest norm of the gradient; 0 = no limit", minimum=0)


@dataclass(frozen=True)
class AugmentationSettings(Settings):
    """Random changes of the training patches. Mirroring only where left and right may be exchanged."""

    rotation: float = setting(20.0, "Largest rotation about each axis", minimum=0, maximum=180, unit="degrees")
    scale: float = setting(0.2, "Largest relative change of size", minimum=0, maximum=0.5)
    spatial_probability: float = setting(0.5, "Share of patches rotated and scaled", minimum=0, maximum=1)
    mirror: tuple[bool, bool, bool] = setting((False, False, False), "Mirror along (i, j, k)")
    right_angles: bool = setting(False, "Rotate in plane by multiples of 90 degrees")
    noise: float = setting(0.1, "Largest standard deviation of Gaussian noise", minimum=0, maximum=2)
    brightness: float = setting(0.3, "Largest relative change of brightness", minimum=0, maximum=1)
    contrast: float = setting(0.5, "Largest relative change of contrast", minimum=0, maximum=1)
    gamma: float = setting(0.6, "Largest change of the logarithm of gamma", minimum=0, maximum=1)
    blur: float = setting(1.0, "Largest standard deviation of blurring", minimum=0, maximum=5, unit="voxels")
    low_resolution: float = setting(0.5, "Smallest zoom of simulated low resolution; 1 = off", minimum=0.1, maximum=1)
    intensity_probability: float = setting(0.5, "Share of patches that get each intensity change", minimum=0, maximum=1)


@dataclass(frozen=True)
class TeacherSettings(Settings):
    """The exponential moving average of the student's weights."""

    decay: float = setting(0.99, "Largest decay; limited to 1 - 10/iterations too", minimum=0, maximum=0.99999)


@dataclass(frozen=True)
class ScheduleSettings(Settings):
    """When the unlabeled branch joins, as fractions of the whole training."""

    unlabeled_start: float | None = setting(
        None,
        "Training on annotations alone until then; if empty by method, with sp3 250 steps at least",
        minimum=0,
        maximum=1,
    )
    unlabeled_ramp: float = setting(0.1, "Length of the unlabeled branch's ramp", minimum=0, maximum=1)


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """Everything about a training run."""

    method: str = setting("sp3", "Training method", choices=METHODS)
    minutes: float | None = setting(
        None,
        f"Time to train, with all that belongs to it: {DEFAULT_MINUTES:g} unless minutes or iterations are given",
        minimum=0.05,
        maximum=60 * 24 * 14,
        unit="minutes",
    )
    iterations: int | None = setting(None, "Iterations to train, instead of minutes", minimum=1)
    device: str = setting("auto", "auto, cpu, cuda, cuda:0, …, or mps")
    seed: int = setting(0, "Seed of every random number", minimum=0, maximum=2**31 - 1)
    annotations: str = setting(
        "auto",
        "Which annotation of a case trains where it has both; auto: dense for 'supervised', else the scribbles",
        choices=("auto", "dense", "scribbles"),
    )
    warm_start: str = setting("", "Model folder whose weights to begin with")
    foreground_fraction: float = setting(
        0.5, "Share of annotated patches centred on an annotated foreground voxel", minimum=0, maximum=1
    )
    deep_supervision: bool = setting(False, "Losses on coarser levels of the network too")
    largest_component: str = setting(
        "auto",
        "Keep one component, the largest or the one where the class was painted, of: auto (classes that dense labels, "
        "or else the strokes, show as one piece), on (all), off, or classes by name, separated by commas",
    )
    far_background: str = setting(
        "auto",
        "What lies beyond strokes of background counts as background, once every class is known to be one piece; auto: "
        "for all methods but partial and supervised",
        choices=("auto", "on", "off"),
    )
    validations: int = setting(10, "How often validation cases are predicted in a run", minimum=0, maximum=1000)
    held_out_strokes: bool = setting(
        False, "Without validation cases, keep a stroke a class and case out of training and measure agreement with it"
    )
    checkpoint_minutes: float = setting(2.0, "Time between checkpoints", minimum=0.01, unit="minutes")
    threads: int = setting(0, "Threads on the CPU; 0 = all cores", minimum=0, maximum=1024)
    plan: PlanSettings = group(PlanSettings, "Overrides of the plan")
    optimizer: OptimizerSettings = group(OptimizerSettings, "Optimiser")
    augmentation: AugmentationSettings = group(AugmentationSettings, "Augmentation")
    teacher: TeacherSettings = group(TeacherSettings, "Teacher")
    schedule: ScheduleSettings = group(ScheduleSettings, "Schedule")
    sp3: SP3Settings = group(SP3Settings, "SP3")
    sgrs: SGRSSettings = group(SGRSSettings, "SGRS")
    embedding_matching: EmbeddingMatchingSettings = group(EmbeddingMatchingSettings, "Embedding Matching")
    mean_teacher: MeanTeacherSettings = group(MeanTeacherSettings, "Mean teacher")
    ua_mt: UncertaintyAwareMeanTeacherSettings = group(
        UncertaintyAwareMeanTeacherSettings, "Uncertainty-aware mean teacher"
    )

    def __post_init__(self):
        super().__post_init__()
        if self.minutes is not None and self.iterations is not None:
            raise SettingsError("Both minutes and iterations are given.", "Give one of them.")
        if not self.largest_component.strip():
            raise SettingsError("largest_component names no class.", "Give auto, on, off or names of classes.")
        if self.far_background == "on" and self.largest_component == "off":
            raise SettingsError(
                "far_background=on wants to know which classes are one piece, and largest_component=off says none.",
                "Change one of them.",
            )
        if self.far_background == "on" and self.method == "sgrs" and self.sgrs.legacy:
            raise SettingsError(
                "far_background=on adds a loss, and sgrs.legacy=true is the published code, which has none of it.",
                "Change one of them.",
            )
        if self.far_background == "on" and self.method == "supervised" and self.annotations == "auto":
            raise SettingsError(
                "far_background=on asks scribbles, and 'supervised' learns from dense labels only.",
                "Choose another method, or annotations=scribbles.",
            )

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Settings from JSON values, also from those of an older version."""
        return super().from_json(cls.translated(body))

    @classmethod
    def translated(cls, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """JSON values as today's version writes them.

        Once, SP3 was the only method to look beyond strokes, balanced pseudo-labels as it did expanded scribbles, and
        didn't align volumes; and Embedding Matching never centred embeddings.
        """
        if not isinstance(body, Mapping):
            return body
        if _lacks_only({"centred"}, body.get("embedding_matching"), EmbeddingMatchingSettings()):
            body = {**body, "embedding_matching": {**body["embedding_matching"], "centred": "off"}}
        for lacking in ({"align_volumes"}, {"align_volumes", "pseudo_balance"}):
            if _lacks_only(lacking, body.get("sp3"), SP3Settings()):
                old = {"pseudo_balance": body["sp3"]["class_balance"], "align_volumes": False}
                body = {**body, "sp3": {**old, **body["sp3"]}}
        if body.get("far_background") == "on" and body.get("method") == "sgrs" and _is_legacy(body.get("sgrs")):
            body = {**body, "far_background": "off"}  # had no effect, and is refused today
        sp3 = body.get("sp3")
        if not isinstance(sp3, Mapping) or "far_background" not in sp3:
            return body
        wish = "auto" if sp3["far_background"] and body.get("method", cls.method) == "sp3" else "off"
        others = {key: value for key, value in sp3.items() if key != "far_background"}
        return {"far_background": wish, **body, "sp3": others}

    @property
    def budget_minutes(self) -> float | None:
        """Minutes to train, None where iterations are counted instead."""
        if self.iterations is not None:
            return None
        return DEFAULT_MINUTES if self.minutes is None else self.minutes


def _lacks_only(keys: set[str], stored: object, settings: Settings) -> bool:
    """Whether a version that didn't know some settings stored all others; what a person wrote has but a few."""
    return isinstance(stored, Mapping) and set(settings.to_json()) - set(stored) == keys


def _is_legacy(sgrs: object) -> bool:
    return isinstance(sgrs, Mapping) and sgrs.get("legacy") is True


@dataclass(frozen=True)
class PredictionSettings(Settings):
    """Everything about a prediction."""

    device: str = setting("auto", "auto, cpu, cuda, cuda:0, …, or mps")
    network: str = setting("auto", "Whose weights predict; auto: what the model recommends",
                           choices=("auto", "teacher", "student", "best"))  # fmt: skip
    overlap: float = setting(0.5, "Overlap of neighbouring windows", minimum=0, maximum=0.9)
    mirroring: bool = setting(False, "Average over mirrored images, along the axes that training mirrored")
    probability: bool = setting(False, "Write a probability volume for each class")
    uncertainty: bool = setting(False, "Write an uncertainty volume (entropy, 0..1)")
    largest_component: str = setting("auto", "Keep each class's largest component; auto: as the model was trained",
                                     choices=("auto", "on", "off"))  # fmt: skip
    compress: bool = setting(True, "Compress the files written")
    threads: int = setting(0, "Threads on the CPU; 0 = all cores", minimum=0, maximum=1024)
