"""Every superpixel in one piece: what clustering leaves scattered joins a neighbour."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_SMALLEST_SHARE = 0.25  # of a cell's volume; SimpleITK's SLIC drops the same
_WITHIN = (slice(1, -1),) * 3  # a volume's voxels in a copy with a border
_SLAB_VOXELS = 2**19
_FEW = 0.01  # share of the voxels under which a list of them beats passes over the volume


def connect(
    labels: np.ndarray,
    levels: np.ndarray,
    centres: np.ndarray,
    cell_volume: float,
    axes: tuple[int, ...] = (0, 1, 2),
) -> np.ndarray:
    """Turns clusters into superpixels: each one face-connected piece, ids contiguous from 0.

    A superpixel grows from the voxel of the cluster that is nearest to the cluster's centre. Pieces
    that aren't reached, and superpixels under a quarter of ``cell_volume``, join as a whole the
    touching superpixel of the most similar intensity.

    Parameters
    ----------
    labels : numpy.ndarray of int32, shape (K, J, I)
        Cluster of each voxel, from 0 to ``clusters - 1``.
    levels : numpy.ndarray, shape (K, J, I)
        Intensity of each voxel.
    centres : numpy.ndarray, shape (4, clusters)
        Mean intensity and mean position k, j, i of each cluster.
    cell_volume : float
        Voxels that a superpixel is meant to have.
    axes : tuple of int
        Axes (of k, j, i) along which voxels are neighbours; (1, 2) for superpixels within slices.

    Returns
    -------
    ids : numpy.ndarray of int32, shape (K, J, I)
        Superpixel of each voxel; numbered in the order of the clusters.
    """
    reached = np.zeros(labels.shape, bool)
    reached.reshape(-1)[_anchors(labels, centres)] = True
    _flood(reached, labels, axes)

    # A border of -1 ("nobody's") lets neighbours be looked up by one offset in flat memory.
    owner = np.full([n + 2 for n in labels.shape], -1, np.int32)
    owner[_WITHIN] = labels
    offsets = _neighbour_offsets(owner.shape, axes)

    orphans = np.flatnonzero(~reached)
    places, wanted = _bordered(orphans, labels.shape), labels.reshape(-1)[orphans]
    territory = owner.reshape(-1)
    territory[places] = -1
    _rejoin_own(territory, places, wanted, offsets)

    sizes = _sizes(owner[_WITHIN], centres.shape[1])
    too_small = np.append(sizes < _SMALLEST_SHARE * cell_volume, True)  # last: index -1, nobody's
    for slab in _slabs(owner):
        slab[too_small[slab]] = -1
    _join_most_similar(owner, labels, levels, centres[0], offsets)
    return _contiguous(owner[_WITHIN], centres.shape[1])


def _anchors(labels: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Flat index of the voxel of each cluster (that has any) nearest to the cluster's centre."""
    flat, shape = labels.reshape(-1), labels.shape
    middle = [
        np.clip(np.rint(centre).astype(np.intp), 0, extent - 1)
        for centre, extent in zip(centres[1:], shape, strict=True)
    ]
    anchors = np.ravel_multi_index(middle, shape)
    misses = flat[anchors] != np.arange(len(anchors))
    rest = np.flatnonzero(misses[flat])
    cluster = flat[rest]
    apart = sum(
        (place - centre[cluster]) ** 2 for place, centre in zip(np.unravel_index(rest, shape), centres[1:], strict=True)
    )
    order = np.lexsort((rest, apart, cluster))
    _, first = np.unique(cluster[order], return_index=True)
    return np.concatenate([anchors[~misses], rest[order[first]]])


def _flood(reached: np.ndarray, labels: np.ndarray, axes: tuple[int, ...]) -> None:
    """Spreads ``reached`` over voxels of the same label until few are gained per pass."""
    sides = [
        (
            (slice(None),) * axis + (slice(None, -1),),
            (slice(None),) * axis + (slice(1, None),),
        )
        for axis in axes
        if labels.shape[axis] > 1
    ]
    same = [labels[low] == labels[high] for low, high in sides]
    joins = [np.empty_like(each) for each in same]
    now = np.count_nonzero(reached)
    gained = reached.size
    while gained > _FEW * reached.size:
        for (low, high), joined, spread in zip(sides, same, joins, strict=True):
            reached[high] |= np.logical_and(reached[low], joined, out=spread)
            reached[low] |= np.logical_and(reached[high], joined, out=spread)
        before, now = now, np.count_nonzero(reached)
        gained = now - before


def _bordered(flat: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The flat indices of the same voxels once the volume has a border of one voxel."""
    places = np.unravel_index(flat, shape)
    return np.ravel_multi_index([x + 1 for x in places], [n + 2 for n in shape])


def _neighbour_offsets(shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    strides = (shape[1] * shape[2], shape[2], 1)
    return np.array([sign * strides[axis] for axis in axes for sign in (-1, 1)], np.intp)


def _rejoin_own(territory: np.ndarray, places: np.ndarray, wanted: np.ndarray, offsets: np.ndarray) -> None:
    """Adds to each piece, wave by wave, the unreached voxels of its own cluster."""
    while len(places):
        joins = np.zeros(len(places), bool)
        for offset in offsets:
            joins |= territory[places + offset] == wanted
        if not joins.any():
            return
        territory[places[joins]] = wanted[joins]
        places, wanted = places[~joins], wanted[~joins]


def _join_most_similar(
    owner: np.ndarray, labels: np.ndarray, levels: np.ndarray, means: np.ndarray, offsets: np.ndarray
) -> None:
    """Gives each piece that is nobody's to the touching superpixel of most similar intensity.

    Pieces that touch nobody but others of their kind wait until those have joined.
    """
    orphans = np.flatnonzero(owner[_WITHIN] < 0)
    if not len(orphans):
        return
    places = _bordered(orphans, labels.shape)
    cluster = labels.reshape(-1)[orphans]
    piece = _pieces(places, cluster, offsets)
    shade = np.bincount(piece, levels.reshape(-1)[orphans]) / np.bincount(piece)
    territory = owner.reshape(-1)
    while len(places):
        neighbours = territory[places[:, None] + offsets]
        voxel, side = np.nonzero(neighbours >= 0)
        touching, neighbour = piece[voxel], neighbours[voxel, side]
        apart = np.abs(means[neighbour] - shade[touching])
        order = np.lexsort((neighbour, apart, touching))
        joining, first = np.unique(touching[order], return_index=True)
        host = np.full(len(shade), -1, owner.dtype)
        host[joining] = neighbour[order[first]]
        if not len(joining):
            # A slice in which every piece was too small: its first one founds a superpixel.
            host[piece[0]] = cluster[0]
        territory[places] = host[piece]
        waits = host[piece] < 0
        places, piece, cluster = places[waits], piece[waits], cluster[waits]


def _pieces(places: np.ndarray, labels: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Number of the face-connected piece of one label that each of some voxels belongs to."""
    starts, ends = [], []
    for offset in offsets[offsets > 0]:
        found = np.searchsorted(places, places + offset)
        found[found == len(places)] = 0
        joined = (places[found] == places + offset) & (labels[found] == labels)
        starts.append(np.flatnonzero(joined))
        ends.append(found[joined])
    if not starts:
        return np.arange(len(places))
    start, end = np.concatenate(starts), np.concatenate(ends)
    graph = coo_array((np.ones(len(start), bool), (start, end)), shape=(len(places), len(places)))
    return connected_components(graph, directed=False)[1]


def _contiguous(ids: np.ndarray, clusters: int) -> np.ndarray:
    numbers = np.cumsum(_sizes(ids, clusters) > 0, dtype=np.int32) - np.int32(1)
    result = np.empty(ids.shape, np.int32)
    for before, after in zip(_slabs(ids), _slabs(result), strict=True):
        np.take(numbers, before, out=after, mode="clip")  # any other mode writes by way of a copy
    return result


def _sizes(ids: np.ndarray, clusters: int) -> np.ndarray:
    """Number of voxels of each cluster; those of -1 count for none."""
    sizes = np.zeros(clusters + 1, np.intp)
    for slab in _slabs(ids):
        low = int(slab.min())
        counted = np.bincount((slab - low).reshape(-1))
        # Seeds are numbered along k first: a slab holds few of them.
        sizes[low + 1 : low + 1 + len(counted)] += counted
    return sizes[1:]


def _slabs(volume: np.ndarray) -> Iterator[np.ndarray]:
    """Views of a few slices each: what numpy makes of them on the way (64-bit indices, say) stays small."""
    depth = max(1, _SLAB_VOXELS // (volume.shape[1] * volume.shape[2]))
    return (volume[k : k + depth] for k in range(0, len(volume), depth))
