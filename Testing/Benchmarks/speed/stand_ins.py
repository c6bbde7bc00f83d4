"""Modules that other projects' training scripts import and that take no part in a step."""

from __future__ import annotations

import importlib.machinery
import re
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


def stand_in(volumes: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Modules that the scripts import: always for the files, else where they aren't installed."""

    class File(dict):
        """Opened as ``h5py.File(path)``; each of the listed cases is one of the volumes, a fresh copy at each read."""

        def __init__(self, path: str, mode: str = "r"):
            index = int(re.search(r"case(\d+)", path)[1])
            image, label = volumes[index % len(volumes)]
            super().__init__(image=_Copied(image), label=_Copied(label))

    modules = {
        "h5py": {"File": File},
        "nibabel": {},
        "tqdm": {"tqdm": _Bar},
        "tensorboardX": {"SummaryWriter": _Silent},
        "torchvision": {"transforms": types.SimpleNamespace(Compose=_Composed)},
        "torchvision.utils": {"make_grid": lambda image, *_, **__: image},
        "medpy": {"metric": types.ModuleType("metric")},
        "batchgenerators": {},
        "batchgenerators.augmentations": {},
        "batchgenerators.augmentations.utils": {"pad_nd_image": None},
    }
    for name, contents in modules.items():
        if name != "h5py":
            try:
                __import__(name)
                continue
            except ImportError:
                pass
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)  # torch looks for it
        vars(module).update(contents)
        sys.modules[name] = module


class _Copied:
    def __init__(self, array: np.ndarray):
        self.array = array

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.array[index].copy()


class _Bar:
    def __init__(self, iterable: Any, **_: Any):
        self.iterable = iterable

    def __iter__(self) -> Iterator[Any]:
        return iter(self.iterable)

    def close(self) -> None:
        """Nothing was drawn."""


class _Silent:
    def __init__(self, *_: Any, **__: Any):
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class _Composed:
    def __init__(self, transforms: Sequence[Any]):
        self.transforms = transforms

    def __call__(self, sample: Any) -> Any:
        for transform in self.transforms:
            sample = transform(sample)
        return sample
