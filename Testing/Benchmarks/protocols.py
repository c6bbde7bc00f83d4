"""Who trains, who tests: the evaluation protocols of the field's data sets, as cohorts.

The data themselves are not part of this repository; `LAYOUT` says how they must lie.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from SemiSupSegLib.cohort import Cohort
from SemiSupSegLib.cohort_creation import create_cohort
from SemiSupSegLib.errors import SemiSupSegError

FOLDS = 5

LAYOUT = """\
The data sets are not part of this repository. --data, or the variable
SEMISUPSEG_DATA, names a folder with
  LA/manifest.csv (columns name, split: train or test, suspected_patient_group),
  LA/{train,test}/images/NAME.nrrd, LA/{train,test}/labels/NAME_label.nrrd,
  LA/train/scribbles/NAME_scribble.nrrd (1 background, 2 left atrium);
  ACDC/manifest.csv (columns name, patient, group), ACDC/images, ACDC/labels,
  ACDC/scribbles (1 background, then each class's label + 1);
  hippocampus/images, hippocampus/labels.
"""

PUBLISHED_LA = (
    "plan.network=vnet", "plan.spacing=0.625,0.625,0.625", "plan.patch=112,112,80", "plan.batch_size=2",
    "optimizer.name=sgd", "optimizer.learning_rate=0.01", "foreground_fraction=0",
    "augmentation.right_angles=true", "augmentation.mirror=true,true,false",
    "augmentation.spatial_probability=0", "augmentation.intensity_probability=0",
)  # fmt: skip
"""The published convention: V-Net, 112 x 112 x 80, SGD, quarter turns and mirroring (UA-MT's code, spec protocols)."""


@dataclass(frozen=True)
class Split:
    """One paired run of a protocol: the same for every method.

    Attributes
    ----------
    name : str
        Part of file names.
    seed : int
        Seed of the training.
    cohort : Cohort
        Roles and labeled cases set.
    unlabeled : tuple of str
        Training cases without annotation that have a reference: transductive Dice.
    test : tuple of str
        Test cases.
    clean_test : tuple of str
        Those that share no suspected patient with any training case.
    """

    name: str
    seed: int
    cohort: Cohort
    unlabeled: tuple[str, ...]
    test: tuple[str, ...]
    clean_test: tuple[str, ...] = field(default=())


def la_splits(data: Path, *, labeled: int, runs: int, subsets: int = 3, scribbles: bool = False) -> list[Split]:
    """Left atrium: the published 80 training scans, of which the first N or other N are labeled, and the test scans.

    The first subset is the published one (the first N of the list); the others are drawn at random. ``labeled=80`` is
    the upper bound.
    """
    folder = data / "LA"
    rows = {row["name"]: row for row in _manifest(folder)}
    train = [name for name, row in rows.items() if row["split"] == "train"]
    test = [name for name, row in rows.items() if row["split"] == "test"]
    groups = {rows[name]["suspected_patient_group"] for name in train} - {""}
    clean = tuple(name for name in test if rows[name]["suspected_patient_group"] not in groups)
    splits = []
    for run in range(runs):
        subset = run % subsets if labeled < len(train) else 0
        chosen = train[:labeled] if subset == 0 else _draw(train, labeled, rows, subset)
        images = [folder / "train/images" / f"{name}.nrrd" for name in train]
        images += [folder / "test/images" / f"{name}.nrrd" for name in test]
        labels = [folder / "train/labels" / f"{name}_label.nrrd" for name in train]
        labels += [folder / "test/labels" / f"{name}_label.nrrd" for name in test]
        cohort = create_cohort(
            images,
            labels=labels,
            scribbles=folder / "train/scribbles" if scribbles else None,
            label_values={"left atrium": 1},
            scribble_values={"background": 1, "left atrium": 2} if scribbles else None,
            labeled=chosen,
            test=test,
            name=f"LA, {labeled} labeled",
        )
        unlabeled = tuple(name for name in train if name not in chosen)
        splits.append(Split(f"subset{subset}-seed{run}", run, cohort, unlabeled, tuple(test), clean))
    return splits


def acdc_splits(data: Path, *, runs: int, scribbles: bool = True) -> list[Split]:
    """ACDC: each run tests one fold of patients, of many groups, and trains with the annotations of all others."""
    folder = data / "ACDC"
    rows = {row["name"]: row for row in _manifest(folder)}
    classes = {"right ventricle": 1, "myocardium": 2, "left ventricle": 3}
    folds = stratified_folds({row["patient"]: row["group"] for row in rows.values()})
    splits = []
    for run in range(runs):
        fold = run % FOLDS
        test = tuple(name for name, row in rows.items() if folds[row["patient"]] == fold)
        cohort = create_cohort(
            folder / "images",
            labels=folder / "labels",
            scribbles=folder / "scribbles" if scribbles else None,
            label_values=classes,
            scribble_values={"background": 1, **{name: value + 1 for name, value in classes.items()}}
            if scribbles
            else None,
            labeled=[name for name in rows if name not in test],
            test=test,
            name=f"ACDC, fold {fold + 1}",
        )
        splits.append(Split(f"fold{fold + 1}-seed{run // FOLDS}", run // FOLDS, cohort, (), test, test))
    return splits


def hippocampus_splits(data: Path, *, labeled: int, runs: int, tested: int = 50) -> list[Split]:
    """Hippocampus: the last cases are tested, N random others labeled, the rest unlabeled."""
    folder = data / "hippocampus"
    everything = create_cohort(
        folder / "images", labels=folder / "labels", label_values={"anterior": 1, "posterior": 2}
    )
    names = [case.id for case in everything.cases]
    train, test = names[:-tested], tuple(names[-tested:])
    splits = []
    for run in range(runs):
        chosen = [train[index] for index in np.random.default_rng((17, run)).permutation(len(train))[:labeled]]
        cohort = create_cohort(
            folder / "images",
            labels=folder / "labels",
            label_values={"anterior": 1, "posterior": 2},
            labeled=chosen,
            test=test,
            name=f"Hippocampus, {labeled} labeled",
        )
        unlabeled = tuple(name for name in train if name not in chosen)
        splits.append(Split(f"subset{run}-seed{run}", run, cohort, unlabeled, test, test))
    return splits


def stratified_folds(groups: dict[str, str]) -> dict[str, int]:
    """Fold (from 0) of each patient: neighbours of one group lie in different folds, and folds are equally large.

    Examples
    --------
    >>> stratified_folds({"a": "ill", "b": "well", "c": "ill", "d": "well", "e": "well", "f": "ill"})
    {'a': 0, 'c': 1, 'f': 2, 'b': 3, 'd': 4, 'e': 0}
    """
    patients = sorted(groups, key=lambda patient: (groups[patient], patient))
    return {patient: index % FOLDS for index, patient in enumerate(patients)}


def _manifest(folder: Path) -> list[dict[str, str]]:
    if not (folder / "manifest.csv").is_file():
        raise SemiSupSegError(f"There is no '{folder / 'manifest.csv'}'.", "How the data must lie is told by --help.")
    with open(folder / "manifest.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _draw(train: list[str], labeled: int, rows: dict[str, dict[str, str]], subset: int) -> list[str]:
    """Random labeled scans, no two of one suspected patient."""
    chosen, groups = [], set()
    for index in np.random.default_rng((8, subset)).permutation(len(train)):
        group = rows[train[index]]["suspected_patient_group"]
        if group and group in groups:
            continue
        chosen.append(train[index])
        groups.add(group)
        if len(chosen) == labeled:
            break
    return sorted(chosen)
