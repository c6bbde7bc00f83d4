"""A procedural phantom: scans of a body with an organ, a lesion in it and a vessel, and scribbles on some of them.

The demo trains on it, Sample Data offers it, and tests use it, so nothing has to be downloaded. Every case has its own
pose, shapes and contrast, a bias field, noise, partial volume at the borders and a grid of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .cohort import AnnotationFile, Case, Cohort, Role
from .errors import CohortError
from .labels import IGNORE, LabelSchema, SegmentClass
from .segmentation_file import write_segmentation
from .volume import Geometry, Volume, write_volume

SCHEMA = LabelSchema(
    (
        SegmentClass("organ", color=(0.87, 0.51, 0.40)),
        SegmentClass("lesion", color=(0.56, 0.93, 0.56)),
        SegmentClass("vessel", color=(0.85, 0.24, 0.24)),
    )
)
"""The classes of the phantom."""

ORGAN, LESION, VESSEL = 1, 2, 3

# Tissues that are background to the classes. Numbers go on behind the classes' for drawing only.
_AIR, _BODY, _BONE, _MARROW, _NEIGHBOUR = 0, 4, 5, 6, 7
_BRIGHTNESS = {
    _AIR: 20, ORGAN: 480, LESION: 340, VESSEL: 700, _BODY: 260, _BONE: 820, _MARROW: 540, _NEIGHBOUR: 420,
}  # fmt: skip

# Drawn this much finer along each axis and averaged, so that borders are mixtures, as in a scan.
_FINER = 2


@dataclass(frozen=True, eq=False)
class Phantom:
    """One phantom scan.

    Parameters
    ----------
    image : Volume
        int16.
    labels : numpy.ndarray of uint8, shape (k, j, i)
        Class index of every voxel.
    scribbles : numpy.ndarray of uint8, shape (k, j, i)
        What a person would paint in a minute or two; 255 elsewhere.
    """

    image: Volume
    labels: np.ndarray
    scribbles: np.ndarray


def make_phantom(shape: tuple[int, int, int] = (32, 64, 64), seed: int | tuple[int, ...] = 0) -> Phantom:
    """Draw one phantom scan.

    Parameters
    ----------
    shape : tuple of int
        Voxels along k, j, i, at least 8 each. The body fills the volume whatever its shape.
    seed : int or tuple of int
        Equal seeds give equal scans.

    Examples
    --------
    >>> make_phantom((16, 32, 32)).labels.max()
    np.uint8(3)
    """
    if min(shape) < 8:
        raise CohortError(f"A phantom of {shape} voxels is too small.", "Use at least 8 voxels along each axis.")
    rng = np.random.default_rng(seed)
    tissue = _tissues(tuple(size * _FINER for size in shape), rng)
    image = _scan(tissue, rng)
    labels = _majority(tissue)
    geometry = _geometry(shape, rng)
    return Phantom(Volume(image, geometry), labels, scribble(labels, rng))


def make_phantom_cohort(
    folder: Path | str,
    n_cases: int = 12,
    shape: tuple[int, int, int] = (32, 64, 64),
    seed: int = 0,
    *,
    n_scribbled: int = 4,
    n_validation: int = 0,
    n_test: int = 3,
    on_progress: Callable[[float, str], None] = lambda fraction, text: None,
) -> Cohort:
    """Write a cohort of phantom scans.

    Parameters
    ----------
    folder : Path or str
        Gets ``cohort.json``, ``images/``, ``labels/`` (dense, all cases) and ``scribbles/``.
    n_cases : int
        All cases: first the scribbled ones, then those that train without annotation, then validation and test.
    shape : tuple of int
        Voxels along k, j, i.
    seed : int
        Equal seeds give equal files, whatever the number of cases.
    n_scribbled, n_validation, n_test : int
        How many cases train with scribbles, validate and test. The dense labels of all cases are for evaluation;
        scribbled cases may train with theirs too, which is what the method ``supervised`` asks for.
    on_progress : callable
        Called with a fraction 0..1 and text.

    Returns
    -------
    Cohort
        Saved as ``folder/cohort.json``.

    Raises
    ------
    SemiSupSegError
        If there are fewer cases than roles, or `folder` can't be written to.
    """
    n_unlabeled = n_cases - n_scribbled - n_validation - n_test
    if n_scribbled < 1 or min(n_unlabeled, n_validation, n_test) < 0:
        raise CohortError(
            f"{n_cases} cases can't be {n_scribbled} scribbled, {n_validation} validation and {n_test} test cases.",
            "Ask for more cases, and for at least one scribbled one.",
        )
    folder = Path(folder).absolute()
    roles = [Role.TRAIN] * (n_scribbled + n_unlabeled) + [Role.VALIDATION] * n_validation + [Role.TEST] * n_test
    cases = []
    for index, role in enumerate(roles):
        case_id = f"phantom_{index + 1:02d}"
        on_progress(index / n_cases, case_id)
        phantom = make_phantom(shape, (seed, index))
        image = folder / "images" / f"{case_id}.nrrd"
        label = folder / "labels" / f"{case_id}_label.seg.nrrd"
        write_volume(image, phantom.image)
        write_segmentation(label, phantom.labels, phantom.image.geometry, SCHEMA)
        scribbled = index < n_scribbled
        scribble_file = folder / "scribbles" / f"{case_id}_scribble.seg.nrrd"
        if scribbled:
            write_segmentation(scribble_file, phantom.scribbles, phantom.image.geometry, SCHEMA, kind="scribble")
        cases.append(
            Case(
                case_id,
                image,
                label=AnnotationFile(label),
                scribble=AnnotationFile(scribble_file) if scribbled else None,
                role=role,
                labeled=scribbled,
            )
        )
    on_progress(1.0, "")
    return Cohort(SCHEMA, tuple(cases), "Phantom").save(folder / "cohort.json")


# ---------------------------------------------------------------------------------------------------------------------
# The scan


def _tissues(shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Which tissue is where, uint8 (k, j, i). Coordinates run from -1 to 1 along x, y, z, whatever the shape."""
    axes = [np.linspace(-1, 1, size) for size in shape]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    shift = rng.uniform(-0.06, 0.06, 2)
    x, y = x - shift[0], y - shift[1]
    bumps = _smooth_field(shape, 5, rng)

    tissue = np.full(shape, _AIR, dtype=np.uint8)
    width, depth = rng.uniform(0.84, 0.92), rng.uniform(0.7, 0.8)
    tissue[np.abs(x / width) ** 2.5 + np.abs(y / depth) ** 2.5 + 0.05 * bumps + 0 * z < 1] = _BODY

    # A spine of vertebrae at the back: brighter than anything that is asked for.
    spine = np.hypot(x - rng.uniform(-0.04, 0.04), y - 0.5 * depth - 0.1)
    height = 0.5 + 0.5 * np.cos(2 * np.pi * (3 * z + rng.uniform()))
    tissue[spine < 0.13 + 0.04 * height] = _BONE
    tissue[spine < 0.08 + 0.03 * height] = _MARROW

    # Another organ, nearly as bright as the one that is asked for, but on the other side.
    centre = np.array([0.45, 0.12, 0.35]) + rng.uniform(-0.06, 0.06, 3)
    other = _ellipsoid((x, y, z), centre, np.array([0.2, 0.24, 0.35]) * rng.uniform(0.85, 1.15, 3), rng)
    tissue[other + 0.15 * _smooth_field(shape, 5, rng) < 1] = _NEIGHBOUR

    centre = np.array([-0.3, -0.05, 0.0]) + rng.uniform(-0.08, 0.08, 3)
    radii = np.array([0.42, 0.38, 0.6]) * rng.uniform(0.85, 1.15, 3)
    organ = _ellipsoid((x, y, z), centre, radii, rng) + 0.22 * bumps < 1
    tissue[organ] = ORGAN

    vessel = _vessel((x, y, z), centre + np.array([0.9 * radii[0], 0.1, 0]), centre, rng)
    tissue[vessel & (tissue != _AIR)] = VESSEL

    lesion_centre = centre + radii * rng.uniform(-0.35, 0.35, 3) - [0.12 * radii[0], 0, 0]
    lesion = _ellipsoid((x, y, z), lesion_centre, radii * rng.uniform(0.36, 0.5, 3), rng)
    tissue[(lesion + 0.2 * _smooth_field(shape, 7, rng) < 1) & (tissue == ORGAN)] = LESION
    return tissue


def _ellipsoid(coordinates, centre: np.ndarray, radii: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Distance from the centre of a slightly turned ellipsoid, 1 on its surface."""
    turn = Rotation.from_euler("xyz", rng.uniform(-20, 20, 3), degrees=True).as_matrix()
    offsets = [coordinate - middle for coordinate, middle in zip(coordinates, centre, strict=True)]
    total = 0.0
    for row, radius in zip(turn, radii, strict=True):
        total = total + (sum(weight * offset for weight, offset in zip(row, offsets, strict=True)) / radius) ** 2
    return np.sqrt(total)


def _vessel(coordinates, start: np.ndarray, organ_centre: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A winding tube through all slices, with a branch into the organ."""
    x, y, z = coordinates
    phase, swing = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.06, 0.12, 2)
    middle_x = start[0] + swing[0] * np.sin(2.5 * z + phase[0])
    middle_y = start[1] + swing[1] * np.cos(2.5 * z + phase[1])
    radius = rng.uniform(0.11, 0.14)
    trunk = np.hypot(x - middle_x, y - middle_y) < radius * (1 + 0.15 * np.sin(4 * z + phase[1]))

    level = organ_centre[2] + rng.uniform(-0.15, 0.15)
    root = np.array(
        [
            start[0] + swing[0] * np.sin(2.5 * level + phase[0]),
            start[1] + swing[1] * np.cos(2.5 * level + phase[1]),
            level,
        ]
    )
    tip = organ_centre + np.array([0.1, 0.05, rng.uniform(-0.1, 0.1)])
    along = tip - root
    offsets = (x - root[0], y - root[1], z - root[2])
    position = sum(step * offset for step, offset in zip(along, offsets, strict=True)) / (along @ along)
    position = np.clip(position, 0, 1)
    distance = np.sqrt(sum((offset - position * step) ** 2 for offset, step in zip(offsets, along, strict=True)))
    return trunk | (distance < radius * (0.75 - 0.25 * position))


def _scan(tissue: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a scanner makes of the tissues: contrast, texture, partial volume, bias field and noise; int16."""
    brightness = np.zeros(max(_BRIGHTNESS) + 1, dtype=np.float32)
    for kind, value in _BRIGHTNESS.items():
        brightness[kind] = value * rng.uniform(0.94, 1.06)
    fine = brightness[tissue]
    fine *= 1 + 0.06 * ndimage.gaussian_filter(rng.standard_normal(tissue.shape, dtype=np.float32), 1.5) / 0.12
    image = _blocks(fine).mean(axis=(1, 3, 5))
    image = ndimage.gaussian_filter(image, 0.4)
    image *= np.exp(0.22 * _smooth_field(image.shape, 3, rng))
    noise = rng.normal(0, 28, (2, *image.shape))
    # The magnitude of a complex signal with Gaussian noise: Rician, as in MRI.
    image = np.hypot(image + noise[0], noise[1]) * rng.uniform(0.85, 1.15)
    return np.rint(image).astype(np.int16)


def _majority(tissue: np.ndarray) -> np.ndarray:
    """Class index that fills most of each voxel, uint8 (k, j, i)."""
    classes = np.where(tissue <= VESSEL, tissue, 0)
    shares = [_blocks(classes == index).sum(axis=(1, 3, 5)) for index in range(SCHEMA.n_classes)]
    return np.argmax(shares, axis=0).astype(np.uint8)


def _blocks(fine: np.ndarray) -> np.ndarray:
    """A view in which axes 1, 3 and 5 run within a voxel."""
    k, j, i = (size // _FINER for size in fine.shape)
    return fine.reshape(k, _FINER, j, _FINER, i, _FINER)


def _smooth_field(shape: tuple[int, ...], knots: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth random numbers of about unit variance: cubic splines between `knots` random ones along each axis."""
    coarse = rng.standard_normal((knots,) * 3)
    coarse /= coarse.std()
    # One small matrix an axis does what ndimage.zoom does with a spline evaluation a voxel.
    k, j, i = (ndimage.zoom(np.eye(knots), (size / knots, 1), order=3, mode="nearest") for size in shape)
    return np.einsum("abc,ka,jb,ic->kji", coarse, k, j, i, optimize=True).astype(np.float32)


def _geometry(shape: tuple[int, int, int], rng: np.random.Generator) -> Geometry:
    """A grid as scanners make them: thicker slices, slightly tilted, somewhere."""
    spacing = np.array([1.5, 1.5, 3.0]) * rng.uniform(0.93, 1.07)
    tilt = Rotation.from_euler("xyz", rng.uniform(-8, 8, 3), degrees=True).as_matrix()
    centre = rng.uniform(-30, 30, 3)
    size = np.array(shape[::-1])
    origin = centre - tilt @ (spacing * (size - 1) / 2)
    return Geometry(size, np.round(spacing, 4), np.round(origin, 3), tilt.ravel())


# ---------------------------------------------------------------------------------------------------------------------
# The scribbles


def scribble(labels: np.ndarray, rng: np.random.Generator, slice_step: int = 5) -> np.ndarray:
    """Scribbles as a person paints them: a stroke or two a class on every few slices, background near and far.

    Parameters
    ----------
    labels : numpy.ndarray of uint8, shape (k, j, i)
        Class indices of all voxels.
    rng : numpy.random.Generator
    slice_step : int
        Slices from one painted slice to the next.

    Returns
    -------
    numpy.ndarray of uint8, shape (k, j, i)
        Class indices where there is a stroke, always the right ones; 255 elsewhere. Every class that `labels` holds has
        at least one voxel.
    """
    strokes = np.full(labels.shape, IGNORE, dtype=np.uint8)
    first = int(rng.integers(0, min(slice_step, len(labels))))
    usual = range(first, len(labels), slice_step)
    for index in np.unique(labels[labels != 0]):
        areas = np.count_nonzero(labels == index, axis=(1, 2))
        for k in _painted_slices(areas, usual):
            _paint(strokes[k], _stroke_inside(labels[k] == index, rng), labels[k], index)
    for k in usual:
        for stroke in _background_strokes(labels[k] != 0, rng):
            _paint(strokes[k], stroke, labels[k], 0)
    return strokes


def _painted_slices(areas: np.ndarray, usual: range) -> list[int]:
    """Where a class gets strokes: on the usual slices, and for a small structure on three of its own."""
    chosen = [k for k in usual if areas[k]]
    if len(chosen) >= 3:
        return chosen
    its_own = np.flatnonzero(areas)
    return sorted({int(its_own[int(share * (len(its_own) - 1))]) for share in (0.25, 0.5, 0.75)})


def _paint(canvas: np.ndarray, stroke: np.ndarray, labels: np.ndarray, index: int) -> None:
    canvas[stroke & (labels == index)] = index


def _stroke_inside(region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A curved stroke along the long axis of a region's largest part, clear of its border where there is room."""
    parts, n_parts = ndimage.label(region)
    if n_parts == 0:
        return region
    part = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    depth = ndimage.distance_transform_edt(part)
    core = depth > min(2.0, 0.6 * depth.max())
    points = np.argwhere(core).astype(float)
    if len(points) == 1:
        return core
    centre = points.mean(axis=0)
    axes = np.linalg.svd(points - centre, full_matrices=False)[2]
    along = (points - centre) @ axes[0]
    length, breadth = np.ptp(along), np.ptp((points - centre) @ axes[1])
    t = np.linspace(-0.4, 0.4, 200)
    wave = rng.uniform(0.1, 0.3) * breadth * np.sin(rng.uniform(3, 6) * t + rng.uniform(0, 2 * np.pi))
    curve = centre + (along.min() + length * (0.5 + t))[:, None] * axes[0] + wave[:, None] * axes[1]
    stroke = _drawn(curve, region.shape) & core
    # A region bent like a banana may lie beside its own axis: a dab in its middle then.
    return stroke if stroke.any() else depth == depth.max()


def _background_strokes(foreground: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """An arc around the structures, at some distance, and strokes far from them: through body and air, along the rim.

    Without the last, nobody ever said that the air at a scan's rim is background, and networks take it for anything.
    """
    shape = np.array(foreground.shape)
    strokes = []
    distance = np.full(foreground.shape, float(shape.max()))
    if foreground.any():
        distance = ndimage.distance_transform_edt(~foreground)
        near = rng.uniform(2.5, 5)
        rows, columns = np.indices(foreground.shape)
        middle = np.argwhere(foreground).mean(axis=0)
        angle = np.arctan2(rows - middle[0], columns - middle[1])
        arc = (angle - rng.uniform(0, 2 * np.pi)) % (2 * np.pi) < rng.uniform(0.5, 0.9) * np.pi
        strokes.append((np.abs(distance - near) < 0.55) & arc)
    far = distance > 0.08 * shape.max()
    for _ in range(2):
        ends = rng.uniform(0.05, 0.95, (3, 2)) * shape
        t = np.linspace(0, 1, 4 * int(shape.max()))[:, None]
        curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
        strokes.append(_drawn(curve, foreground.shape) & far)
    inset = rng.integers(0, max(1, foreground.shape[0] // 10), 4)
    rim = np.zeros_like(far)
    rim[inset[0], inset[2] : -1 - inset[3]] = rim[-1 - inset[1], inset[2] : -1 - inset[3]] = True
    rim[inset[0] : -1 - inset[1], inset[2]] = rim[inset[0] : -1 - inset[1], -1 - inset[3]] = True
    rows, columns = np.indices(rim.shape)
    around = np.arctan2(rows - shape[0] / 2, columns - shape[1] / 2)
    strokes.append(rim & far & ((around - rng.uniform(0, 2 * np.pi)) % (2 * np.pi) < np.pi))
    return strokes


def _drawn(curve: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The pixels that a curve (n, 2) of points (j, i) runs through."""
    stroke = np.zeros(shape, dtype=bool)
    j, i = np.rint(curve).astype(int).T
    inside = (j >= 0) & (j < shape[0]) & (i >= 0) & (i < shape[1])
    stroke[j[inside], i[inside]] = True
    return stroke
