"""What each method leaves to choose: the switches that its paper ablates, under the paper's names."""

from __future__ import annotations

from dataclasses import dataclass

from .settings import Settings, setting


@dataclass(frozen=True)
class SP3Settings(Settings):
    """Superpixel-propagated pseudo-label learning."""

    superpixel_size: float | None = setting(
        None, "Edge of a supervoxel; from the voxel size if empty", minimum=0.1, maximum=100, unit="mm"
    )
    compactness: float = setting(0.1, "SLIC's compactness on an image scaled to 0..1", minimum=1e-4, maximum=100)
    conflict: str = setting("keep", "A superpixel with strokes of several classes", choices=("keep", "majority"))
    purity: float = setting(0.9, "Share of one class that 'majority' asks for", minimum=0.5, maximum=1)
    expansion_weight: float = setting(0.5, "Weight of the loss on expanded scribbles", minimum=0, maximum=10)
    class_balance: float = setting(
        0.4,
        "After strokes, in the cross-entropy on expanded scribbles: 0 all voxels count alike, 1 all classes; where "
        "most annotated scans have dense labels, always 0",
        minimum=0,
        maximum=1,
    )
    pseudo_balance: float | None = setting(
        None,
        "The same in the cross-entropy on pseudo-labels; if empty, weights by certainty take no share from classes of "
        "which the teacher is less certain",
        minimum=0,
        maximum=1,
    )
    align_volumes: bool = setting(
        True,
        "After strokes, where the teacher finds unusually little of an object in a scan, or much, going by at least "
        "three annotated scans, it looks for more, or less",
    )
    pseudo_weight: float | None = setting(
        None,
        "Weight of the pseudo-label loss after its ramp; if empty, 1 after strokes, and 0.3 where most annotated scans "
        "have dense labels",
        minimum=0,
        maximum=10,
    )
    refinement: bool = setting(True, "Beneficial superpixels take their majority class")
    discard_others: bool = setting(False, "Superpixels that are not beneficial train nothing")
    dynamic_threshold: bool = setting(True, "Threshold a class follows the teacher's confidence")
    fixed_threshold: float = setting(
        0.7, "Threshold where it does not follow; above 1 nothing is beneficial", minimum=0, maximum=2
    )
    threshold_minimum: float = setting(0.5, "Lower clip of the dynamic threshold", minimum=0, maximum=1)
    threshold_maximum: float = setting(0.95, "Upper clip of the dynamic threshold", minimum=0, maximum=1)
    uncertainty_weights: bool = setting(True, "Weigh pseudo-labels by their superpixel's certainty")
    uncertainty_form: str = setting("linear", "1 - u, or exp(-u)", choices=("linear", "exponential"))
    largest_component: bool = setting(
        True, "Pseudo-labels keep the largest component of the classes of which predictions keep it"
    )


@dataclass(frozen=True)
class MeanTeacherSettings(Settings):
    """Mean teacher: the student's probabilities follow the teacher's (Tarvainen and Valpola 2017)."""

    weight: float = setting(10.0, "Weight of the consistency loss after its ramp", minimum=0, maximum=100)
    noise: float = setting(0.1, "Standard deviation of the teacher's input noise", minimum=0, maximum=1)
    teacher_dropout: bool = setting(True, "The teacher predicts with dropout, where the network has any")


@dataclass(frozen=True)
class UncertaintyAwareMeanTeacherSettings(Settings):
    """UA-MT: consistency where Monte Carlo dropout says that the teacher is sure (Yu et al. 2019)."""

    weight: float = setting(10.0, "Weight of the consistency loss after its ramp", minimum=0, maximum=100)
    noise: float = setting(0.1, "Standard deviation of the teacher's input noise", minimum=0, maximum=1)
    passes: int = setting(8, "Monte Carlo passes of the teacher (T)", minimum=1, maximum=64)
    dropout: float = setting(0.2, "Dropout at the coarsest level and before the classifier", minimum=0, maximum=0.9)


@dataclass(frozen=True)
class SGRSSettings(Settings):
    """Mean teacher with synergy-guided regional supervision (Wang et al. 2025)."""

    legacy: bool = setting(False, "Reproduce the published code, its defects D1 to D5 included")
    weight: float = setting(1.0, "Weight of the unlabeled loss after its ramp", minimum=0, maximum=100)
    noise: float = setting(0.1, "Standard deviation of input noise, clipped at twice that", minimum=0, maximum=1)
    beta: float = setting(0.75, "Both parameters of the mixing law Beta(a, a)", minimum=0.01, maximum=100)
    strong_view: bool = setting(True, "Change the grey values of the plain view as those of annotated patches")
    mixing: bool = setting(True, "Mix unlabeled with labeled patches for the second view")
    regions: bool = setting(True, "Regional supervision; off: one loss over all voxels")
    inconsistent_region: bool = setting(True, "Train the inconsistent region too")
    uncertain_rule: str = setting("margin", "What makes a voxel uncertain", choices=("margin", "entropy", "none"))
    margin: float = setting(0.15, "Least distance of the two largest probabilities", minimum=0, maximum=1)
    entropy: float = setting(0.9837, "Largest entropy, as a share of ln C", minimum=0, maximum=1)
    label_smoothing: float = setting(0.2, "Label smoothing in the inconsistent region", minimum=0, maximum=0.9)
    consistent_smooth: float = setting(1.0, "Dice smoothing of the consistent region", minimum=0)
    inconsistent_smooth: float = setting(20.0, "Dice smoothing of the inconsistent region, per 10^6 voxels", minimum=0)
    teacher_dropout: bool = setting(True, "The teacher predicts with dropout, as published")


@dataclass(frozen=True)
class EmbeddingMatchingSettings(Settings):
    """Uncertainty-aware mean teacher with voxel-wise embedding correspondence (Xie et al. 2024)."""

    passes: int = setting(5, "Monte Carlo passes of the teacher (M)", minimum=1, maximum=64)
    references: int = setting(16, "Reference voxels a class and draw (k)", minimum=1, maximum=4096)
    draws: int = setting(5, "Draws of reference voxels (l)", minimum=1, maximum=100)
    band: float = setting(3.0, "References lie at most so far from the surface", minimum=1, maximum=50, unit="voxels")
    dropout: float = setting(
        0.05, "Dropout after every convolution but the last (published: 0.15)", minimum=0, maximum=0.9
    )
    teacher_noise: float = setting(0.01, "Standard deviation of the teacher's input noise", minimum=0, maximum=1)
    student_noise: float = setting(0.02, "Standard deviation of the student's input noise", minimum=0, maximum=1)
    uncertainty_weight: float = setting(1.0, "Final weight of L_UA (published: 0.25)", minimum=0, maximum=10)
    pseudo_weight: float = setting(0.5, "Final weight of L_NN + L_EN (published: 0.125)", minimum=0, maximum=10)
    matching_loss: bool = setting(True, "Use L_NN")
    entropy_loss: bool = setting(True, "Use L_EN")
    kernel: str = setting("cosine", "Similarity of embeddings", choices=("cosine", "euclidean"))
    reduce: str = setting("mean", "What joins a draw's k similarities", choices=("mean", "max"))
    centred: str = setting(
        "auto",
        "Subtract the mean of the classes' mean references before cosines are taken (published: off); auto: where "
        "there are two classes or more beside background",
        choices=("auto", "on", "off"),
    )
    entropy_everywhere: bool = setting(False, "L_EN over all voxels, not only unreliable ones")
    temperature: float = setting(1.0, "Temperature of the similarities in L_EN", minimum=0.01, maximum=10)
    pooled: bool = setting(False, "Average references over the batch instead of pairing")
    over_unreliable: bool = setting(False, "L_NN and L_EN are means over unreliable voxels, as published, not over all")
    published_schedule: bool = setting(
        False, "One ramp over the whole training for weights and threshold, instead of the general schedule"
    )
