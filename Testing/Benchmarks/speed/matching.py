"""Embedding Matching's classes of the voxels of a patch: against all similarities written out, and against faiss.

The naive form is the paper's sentence as code: normalise, multiply with all k * l references of each class, take means.
faiss's exact index finds the same similarities as a search for all of a class's references; given the means of the
references, and so this project's shortcut, it searches for the nearest of as many vectors as there are classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .measure import compare, peak_memory, threads
from .rows import Options, Row, attempt, attempt_all, require

CHANNELS = 32  # the paper's network before its classifier
REFERENCES, DRAWS, CLASSES = 16, 5, 2
AIM, _MEMORY_AIM = 10.0, 50.0
_TIE = 1e-5  # similarities closer than this may be ordered either way by rounding


def rows(options: Options) -> Iterator[Row]:
    """Time and memory of the classes of one patch, and time with the gradient."""
    size = options.pick(96, 48, 8)
    name = f"embedding matching, {size}^3, k={REFERENCES}, l={DRAWS}"
    peers = {
        "all similarities": ("naive", AIM),
        "faiss, all references": ("faiss", AIM),
        "faiss, means": ("means", None),
    }
    for peer, (form, aim) in peers.items():
        if not options.wants(name, peer):
            continue
        yield from attempt_all(name, peer, lambda: _time(name, peer, form, size, options, aim), aim=aim)  # noqa: B023
    if options.wants(f"{name}, gradient", "all similarities"):
        yield attempt(f"{name}, gradient", "all similarities", lambda: _gradient(f"{name}, gradient", size, options))
    own: list[int] = []
    for peer, (form, aim) in peers.items():
        aim = aim and _MEMORY_AIM
        if not options.wants(f"{name}, memory", peer):
            continue
        yield attempt(
            f"{name}, memory", peer, lambda: _memory(f"{name}, memory", peer, form, size, options, aim, own), aim=aim  # noqa: B023
        )  # fmt: skip


def _time(name: str, peer: str, form: str, size: int, options: Options, aim: float | None) -> list[Row]:
    ours, theirs = (prepared(each, size, options.seed, options.threads) for each in ("ours", form))
    with threads(options.threads):
        return compare(name, ours, {peer: theirs}, check=_same_classes, aim=aim, unit="ms")


def _gradient(name: str, size: int, options: Options) -> Row:
    """Similarities and their gradient, as L_EN asks for it."""
    ours, theirs = (_with_gradient(_FORMS[form], *_patch(size, options.seed)) for form in ("ours", "naive"))

    def close(first: Any, second: Any) -> bool:
        return bool(np.allclose(first, second, atol=1e-6))

    with threads(options.threads):
        return compare(name, ours, {"all similarities": theirs}, check=close, unit="ms")[0]


def _memory(name: str, peer: str, form: str, size: int, options: Options, aim: float | None, own: list[int]) -> Row:
    """How much a process grows, in MB; ours is measured once for all peers."""
    how = (size, options.seed, options.threads)
    if form != "naive":
        require("faiss", "pip install faiss-cpu")
    if not own:
        own.append(peak_memory(prepared, "ours", *how))
    theirs = peak_memory(prepared, form, *how)
    note = f"beside the embeddings themselves, {4 * CHANNELS * size**3 / 1e6:.0f} MB"
    return Row(name, peer, own[0] / 1e6, theirs / 1e6, unit="MB", aim=aim, note=note)


def prepared(form: str, size: int, seed: int, thread_count: int) -> Callable[[], Any]:
    """Similarities ``(classes, voxels)`` in one of the forms, as a function of nothing."""
    import torch

    torch.set_num_threads(thread_count)
    query, references = _patch(size, seed)
    work = _FORMS[form]
    if form in ("faiss", "means"):
        require("faiss", "pip install faiss-cpu").omp_set_num_threads(thread_count)
    work(query[:, :1, :1], references)  # libraries load what they need at their first use

    def similarities() -> Any:
        with torch.no_grad():
            return work(query, references)

    return similarities


def _patch(size: int, seed: int) -> tuple[Any, dict[int, Any]]:
    """Embeddings ``(D, *spatial)`` that lean towards one of two directions, and references ``(l, k, D)`` of each."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(CLASSES, CHANNELS, generator=generator)
    query = torch.randn(CHANNELS, size, size, size, generator=generator)
    query[:, : size // 2] += directions[0].view(-1, 1, 1, 1)
    query[:, size // 2 :] += directions[1].view(-1, 1, 1, 1)
    references = {
        label: direction + torch.randn(DRAWS, REFERENCES, CHANNELS, generator=generator)
        for label, direction in enumerate(directions)
    }
    return query, references


def _ours(query: Any, references: dict[int, Any]) -> Any:
    from SemiSupSegLib.learning.methods.embedding_matching import similarities
    from SemiSupSegLib.method_settings import EmbeddingMatchingSettings

    return similarities(query, references, EmbeddingMatchingSettings()).flatten(1)


def _naive(query: Any, references: dict[int, Any]) -> Any:
    import torch
    from torch.nn import functional

    rows = functional.normalize(query.flatten(1).T, dim=1)
    flat = functional.normalize(torch.cat([references[label].flatten(0, 1) for label in sorted(references)]), dim=1)
    every = (rows @ flat.T).view(-1, len(references), DRAWS, REFERENCES)
    return every.mean(dim=3).mean(dim=2).T


def _faiss(query: Any, references: dict[int, Any]) -> np.ndarray:
    """The mean of the similarities with all references of a class."""
    import faiss

    rows = _faiss_rows(query)
    columns = []
    for each in references.values():
        flat = each.flatten(0, 1).numpy().copy()
        faiss.normalize_L2(flat)
        index = faiss.IndexFlatIP(CHANNELS)
        index.add(flat)
        columns.append(index.search(rows, len(flat))[0].mean(axis=1))
    return np.stack(columns)


def _faiss_means(query: Any, references: dict[int, Any]) -> np.ndarray:
    import faiss

    means = np.stack([each.flatten(0, 1).numpy() for each in references.values()])
    means = (means / np.linalg.norm(means, axis=2, keepdims=True)).mean(axis=1)
    index = faiss.IndexFlatIP(CHANNELS)
    index.add(means)
    values, numbers = index.search(_faiss_rows(query), len(means))
    columns = np.empty_like(values)
    np.put_along_axis(columns, numbers, values, axis=1)
    return columns.T


def _faiss_rows(query: Any) -> np.ndarray:
    import faiss

    rows = query.flatten(1).T.contiguous().numpy()
    faiss.normalize_L2(rows)
    return rows


_FORMS: dict[str, Callable[[Any, dict[int, Any]], Any]] = {
    "ours": _ours,
    "naive": _naive,
    "faiss": _faiss,
    "means": _faiss_means,
}


def _with_gradient(form: Callable[[Any, dict[int, Any]], Any], query: Any, references: dict[int, Any]) -> Callable:
    query = query.requires_grad_()

    def gradient() -> np.ndarray:
        query.grad = None
        form(query, references).square().mean().backward()
        return query.grad.numpy()

    return gradient


def _same_classes(ours: Sequence, theirs: Sequence) -> tuple[bool, str]:
    """Whether every voxel gets the same class, but for draws."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    differ = np.argmax(ours, axis=0) != np.argmax(theirs, axis=0)
    draws = int(np.count_nonzero(differ))
    same = not np.any(differ & (np.ptp(theirs, axis=0) > _TIE))
    return same, f"{draws} draws decided otherwise" if draws and same else ""
