"""A training step, data included, against the scripts of SGRS-Net and SSL4MIS: a V-Net on patches of 112x112x80 voxels.

Ours computes the same losses as the script it is compared with. Before anything is timed, our trainer and the script
make twenty steps from equal weights with equal batches, noise and dropout; then fifty from three seeds, ours in
bfloat16. Training from random weights multiplies a difference about tenfold a step, rounding included, so what has to
be equal is compared in float64. The scripts' own data loaders take part in the timing, our cropping and turning too,
and so does memory: ours is kept from step to step (`devices.prepare_process`), theirs goes back to the system.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext

import numpy as np
import torch

from SemiSupSegLib.geometry import Geometry
from SemiSupSegLib.learning.cases import TrainingCase
from SemiSupSegLib.learning.devices import prefers_bfloat16, prepare_process
from SemiSupSegLib.learning.plan import Normalisation, Plan
from SemiSupSegLib.learning.trainer import Trainer
from SemiSupSegLib.phantom import make_phantom
from SemiSupSegLib.training_settings import TrainingSettings
from SemiSupSegLib.volume import read_volume

from .double import in_double
from .measure import compare, threads
from .peer_training import PeerTraining, Script, Setup
from .rows import Options, Row, attempt_all
from .steps_replay import Recorder, comparable, take_weights
from .steps_ssl4mis import MeanTeacherOfSSL4MIS, UncertaintyAwareOfSSL4MIS

AIM, GPU_AIM, SAME_FORMAT_AIM = 3.5, 3.0, 1.15
_SAME_LOSS, _SAME_MEAN = 1e-8, 0.02
_EXACT_PATCH = (32, 32, 16)  # float64 is slow; at 16^3 the deepest batch norm has 4 numbers and makes steps chaotic
_VOLUMES, _LABELED = 8, 4
_ITERATIONS = {"sgrs": 15_000, "mean_teacher": 30_000, "ua_mt": 30_000}  # the scripts': our schedules are fractions

SCRIPTS = {
    "sgrs": Script(
        "SGRS-Net",
        "https://github.com/ortonwang/SGRS-Net",
        "code/train.py",
        ("--dataset_name", "LA", "--labelnum", "8", "--root_path", "../"),
        "dataloaders.dataset",
        {"data/LA/train.list": 80, "data/LA/test.list": 1},
        ("loss", "supervised_loss", "pseudo_loss"),
    ),
    "mean_teacher": Script(
        "SSL4MIS",
        "https://github.com/HiLab-git/SSL4MIS",
        "code/train_mean_teacher_3D.py",
        ("--model", "vnet"),
        "dataloaders.brats2019",
        {"data/BraTS2019/train.txt": 250},
        ("loss", "supervised_loss", "consistency_loss"),
    ),
}
SCRIPTS["ua_mt"] = dataclasses.replace(SCRIPTS["mean_teacher"], path="code/train_uncertainty_aware_mean_teacher_3D.py")
SAME_WORK = {"mean_teacher": MeanTeacherOfSSL4MIS, "ua_mt": UncertaintyAwareOfSSL4MIS}
"""Our methods with the scripts' losses; SGRS has its own legacy form."""


def rows(options: Options) -> Iterator[Row]:
    """For each script: as it is, given our number and memory formats, and our own form of the method."""
    for name, script in SCRIPTS.items():
        title = f"training step, {name}"
        if options.wants(title, script.repository):
            yield from attempt_all(
                title, script.repository, lambda: _rows(name, script, options), aim=AIM  # noqa: B023
            )  # fmt: skip


def _rows(name: str, script: Script, options: Options) -> list[Row]:
    script.find(options.peers)
    device = torch.device(options.device)
    prepare_process(device, options.threads)
    volumes = _volumes(options)
    bench = Bench(name, script, volumes, device, options)
    with threads(options.threads):
        equal, remark = bench.compare_losses()
        return bench.time_steps(equal, remark)


class Bench:
    """A method of ours, the script that it is compared with, and the volumes for both."""

    def __init__(
        self,
        name: str,
        script: Script,
        volumes: Sequence[tuple[np.ndarray, np.ndarray]],
        device: torch.device,
        options: Options,
    ):
        self.name, self.script, self.options, self.device = name, script, options, device
        self.volumes = volumes
        self.precision = "bfloat16" if prefers_bfloat16(device) else "float32"

    # Equality -----------------------------------------------------------------------------------------------------

    def compare_losses(self) -> tuple[bool, str]:
        """Whether our steps are the script's, and by how much losses differ, in words."""
        patch = self.options.pick((32,) * 3, (32,) * 3, (16,) * 3)
        steps, mean_steps, seeds = self.options.pick((20, 50, 3), (20, 50, 1), (3, 4, 1))
        exact = self.differences(_EXACT_PATCH, "float64", steps)
        rounded = self.differences(patch, "float32", steps)
        means = []
        for seed in range(1, seeds + 1):
            ours, theirs = self.both_losses(seed, patch, self.precision, mean_steps)
            means.append((ours[:, 0].mean(), theirs[:, 0].mean()))
        mine, others = np.mean(means, axis=0)
        apart = abs(mine / others - 1)
        half = exact[: steps // 2]
        return exact[:, 0].max() <= _SAME_LOSS and apart <= _SAME_MEAN, (
            f"{steps} losses at most {exact[:, 0].max():.0e} apart in float64 ({steps // 2} losses and their parts "
            f"{half.max():.0e}; {_size(_EXACT_PATCH)}), {rounded[:, 0].max():.0e} in float32 ({_size(patch)}); mean "
            f"loss of {mean_steps} steps {100 * apart:.2f} % apart, ours in {self.precision} ({seeds} seeds)"
        )

    def differences(self, patch: tuple[int, int, int], precision: str, steps: int) -> np.ndarray:
        """How far the losses of equal steps are apart, ``(steps, 3)``."""
        ours, theirs = self.both_losses(0, patch, precision, steps)
        return np.abs(ours - theirs)

    def both_losses(
        self, seed: int, patch: tuple[int, int, int], precision: str, steps: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Losses ``(steps, 3)`` of our trainer and of the script, which repeats what ours drew.

        In bfloat16 the script computes in float32, as it is; else both have one format, and one rounding.
        """
        double = precision == "float64"
        how = {"channels_last": precision != "bfloat16", "double": double, "replays": True}
        ours, theirs = [], []
        with PeerTraining(self.setup(patch, **how)) as peer, in_double() if double else nullcontext():
            trainer = self.same_work(patch, "float32" if double else precision, seed)
            recorder = Recorder(trainer)
            take_weights(trainer, peer.weights)
            for _ in range(steps):
                values, replay = recorder.step()
                ours.append(comparable(values))
                theirs.append(peer.step(replay))
        return np.array(ours), np.array(theirs)

    # Time ---------------------------------------------------------------------------------------------------------

    def time_steps(self, equal: bool, remark: str) -> list[Row]:
        """Seconds a step of all four, in turns."""
        patch = self.options.pick((112, 112, 80), (64, 64, 48), (16, 16, 16))
        ours = self.same_work(patch, self.precision, self.options.seed)
        own = self.trainer(patch, self.precision, self.options.seed, TrainingSettings(method=self.name))
        name = self.script.repository
        with ExitStack() as stack:
            as_it_is, in_our_formats = (
                stack.enter_context(PeerTraining(self.setup(patch, channels_last=each, autocast=each)))
                for each in (False, True)
            )
            measured = compare(
                f"training step, {self.name}, {_size(patch)}",
                ours.step,
                {
                    f"{name}, as it is": as_it_is.step,
                    f"{name}, in our formats": in_our_formats.step,
                    f"our own {self.name}, default settings": lambda: own.step_at(0.9),
                },
                check=lambda *_: equal,
                wait=torch.cuda.synchronize if self.device.type == "cuda" else lambda: None,
            )
        first, second, third = measured
        aim = AIM if self.device.type == "cpu" else GPU_AIM
        return [
            dataclasses.replace(first, aim=aim, note=remark),
            dataclasses.replace(second, aim=SAME_FORMAT_AIM, note="bfloat16, channels last"),
            dataclasses.replace(third, equal=None, note="other losses, patches turned, scaled, grey values changed"),
        ]

    # Both sides ---------------------------------------------------------------------------------------------------

    def setup(self, patch: tuple[int, int, int], **how: bool) -> Setup:
        file = self.script.find(self.options.peers)
        stored = [(image.transpose(2, 1, 0).copy(), label.transpose(2, 1, 0).copy()) for image, label in self.volumes]
        return Setup(self.script, file, stored, patch, self.options.threads, self.options.device, **how)

    def same_work(self, patch: tuple[int, int, int], precision: str, seed: int) -> Trainer:
        """A trainer of ours that makes the script's steps, with its cropping, turning and mirroring."""
        changes = [f"method={self.name}", "optimizer.name=sgd", "optimizer.warmup=0", "optimizer.gradient_clip=0",
                   "augmentation.spatial_probability=0", "augmentation.intensity_probability=0",
                   "augmentation.right_angles=true", "augmentation.mirror=true,true,false",
                   "foreground_fraction=0"]  # fmt: skip
        if self.name == "sgrs":
            changes.append("sgrs.legacy=true")
        trainer = self.trainer(patch, precision, seed, TrainingSettings().with_overrides(changes))
        if self.name in SAME_WORK:
            trainer.method = SAME_WORK[self.name](trainer.settings, trainer.plan)
            trainer._set_rate = _one_step_late(trainer)
        return trainer

    def trainer(self, patch: tuple[int, int, int], precision: str, seed: int, settings: TrainingSettings) -> Trainer:
        plan = Plan(3, (0.625,) * 3, patch, 2, Normalisation(), precision, "vnet", (16, 32, 64, 128, 256),
                    ((2, 2, 2),) * 4, "batch", 0.5, 2)  # fmt: skip
        settings = dataclasses.replace(settings, seed=seed)
        cases = [self._case(index) for index in range(len(self.volumes))]
        return Trainer(settings, plan, self.device, cases, _ITERATIONS[self.name])

    def _case(self, index: int) -> TrainingCase:
        image, label = self.volumes[index]
        case = TrainingCase(
            f"case{index}", Geometry(image.shape[::-1], (0.625,) * 3), torch.from_numpy(image).to(self.device).half()
        )
        case.annotate(label if index < _LABELED else None, is_dense=True)
        return case


def _one_step_late(trainer: Trainer) -> Callable[[float], float]:
    """The learning rate as SSL4MIS's scripts have it, which set it after each step for the next one but one."""
    usual = trainer._set_rate
    return lambda fraction: usual(max(0.0, fraction - 1 / trainer.iterations))


def _volumes(options: Options) -> list[tuple[np.ndarray, np.ndarray]]:
    """Normalised images float32 and labels uint8, (k, j, i): left atria, or phantoms where the data aren't there."""
    if options.data is None or options.tiny:
        shape = options.pick((88, 140, 183), (60, 80, 90), (24, 28, 32))
        phantoms = [make_phantom(shape, seed) for seed in range(_VOLUMES)]
        pairs = [(each.image.array, each.labels) for each in phantoms]
    else:
        folder = options.data / "LA" / "train"
        names = [f"LA_{number:03d}" for number in range(1, _VOLUMES + 1)]
        pairs = [(read_volume(folder / "images" / f"{name}.nrrd").array,
                  read_volume(folder / "labels" / f"{name}_label.nrrd").array) for name in names]  # fmt: skip
    return [(Normalisation()(image), (label > 0).astype(np.uint8)) for image, label in pairs]


def _size(patch: tuple[int, int, int]) -> str:
    return "x".join(map(str, patch))
