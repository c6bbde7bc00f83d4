"""The one companion of this Slicer, for every Segment Editor in it and for the cohort."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import slicer

from ..companion_client import CompanionClient, SuperpixelRequest
from ..superpixels import SuperpixelSettings
from .nodes import volume_of

PROPOSAL_VOXELS, PROPOSAL_PIXELS = 256, 128
"""Size of a supervoxel and a superpixel that people paint on: at least twice what training takes, whose outlines would
flood the views."""


@functools.cache
def shared_companion() -> CompanionClient:
    """The companion; it isn't started before something is asked of it. Results are kept among Slicer's temporary files.

    `close_shared_companion` when Slicer quits; where nobody does, it notices and ends itself.
    """
    cache = Path(slicer.app.temporaryPath) / "SemiSupSeg" / "superpixels"
    return CompanionClient(cache, environment=slicer.util.startupEnvironment())


def close_shared_companion() -> None:
    """End the companion, if it was ever started; the next that asks for something gets another."""
    if shared_companion.cache_info().currsize:
        shared_companion().close()
        shared_companion.cache_clear()


def proposal_settings(
    spacing: Sequence[float], size_mm: float | None = None, within_slices: bool = False
) -> SuperpixelSettings:
    """Superpixels that people paint on: of a size chosen in mm, or such that one can see and click them.

    Parameters
    ----------
    spacing : sequence of float
        Size of a voxel along (i, j, k) in millimetres.
    size_mm : float, optional
        Edge length; about `PROPOSAL_VOXELS` voxels each if not given.
    within_slices : bool
        Whether superpixels stay within a slice along k.
    """
    if not size_mm:
        size_mm = math.cbrt(PROPOSAL_VOXELS * math.prod(spacing))
        if within_slices or size_mm < spacing[2]:
            size_mm = math.sqrt(PROPOSAL_PIXELS * spacing[0] * spacing[1])
        size_mm = round(size_mm, 2)
    return SuperpixelSettings(size_mm=size_mm, dimensions=2 if within_slices else 3)


def prepare_superpixels(
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    settings: SuperpixelSettings | None = None,
    file: Path | None = None,
) -> SuperpixelRequest:
    """Lets the superpixels of a volume be computed, so that they are there when the effect asks for them.

    Parameters
    ----------
    volume_node : vtkMRMLScalarVolumeNode
    settings : SuperpixelSettings, optional
        What the effect asks for by default, if not given.
    file : Path, optional
        The file from which the node has its voxels, so that they needn't be written for the companion.

    Returns
    -------
    SuperpixelRequest
        Nobody needs to wait for it, but somebody has to `poll` the companion until it is over.

    Raises
    ------
    SemiSupSegError
        If the volume has no voxels, or the companion can't be started.
    """
    volume = volume_of(volume_node)
    settings = settings or proposal_settings(volume.geometry.spacing)
    tag = source_tag(volume_node, volume.array.shape)
    spacing = volume.geometry.spacing
    return shared_companion().compute_superpixels(volume.array, spacing, settings, tag=tag, file=file)


def source_tag(volume_node: slicer.vtkMRMLScalarVolumeNode, shape: tuple[int, int, int]) -> tuple:
    """What names a source volume's voxels as they are now, brought onto a grid of a shape."""
    return volume_node.GetID(), volume_node.GetImageData().GetMTime(), volume_node.GetSpacing(), shape
