"""Superpixels over the slice views: their outlines, and a preview that colors whole superpixels at once.

One image of labels (superpixels from 1; 0 is what lies outside) is shared by two hidden label map nodes. The outlines
take the label layer of the views, the preview a layer above it. A stroke changes entries of the preview's color table,
never voxels, so it costs the same in a CT as in a single slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from ..volume import Geometry
from .nodes import image_data, set_geometry

OUTLINE_COLOR = (255, 221, 102, 110)
"""Red, green, blue and opacity of the outlines: seen on dark and on bright tissue, without covering either."""

_FIRST_ADDITIONAL_LAYER = slicer.vtkMRMLSliceCompositeNode.Layer_Last


@dataclass
class _View:
    """What a slice view showed before, and the layer that the preview got."""

    composite: slicer.vtkMRMLSliceCompositeNode
    slice: slicer.vtkMRMLSliceNode | None
    label_volume: str | None = None
    label_opacity: float = 1.0
    used_outline: bool = False
    has_outlines: bool = False


class SuperpixelOverlay:
    """Shows superpixels in every slice view until it is removed; then the views are as they were.

    Its nodes aren't saved with the scene; when the scene is closed, it removes itself.

    Parameters
    ----------
    scene : vtkMRMLScene
    labels : numpy.ndarray of int32, shape (k, j, i)
        Superpixel of each voxel, from 1. Shared with the views, so it must not change.
    geometry : Geometry
        Where the voxels are.
    count : int
        Number of superpixels.
    transform_id : str, optional
        The parent transform of what is shown.
    """

    def __init__(
        self,
        scene: slicer.vtkMRMLScene,
        labels: np.ndarray,
        geometry: Geometry,
        count: int,
        transform_id: str | None = None,
    ):
        self._scene = scene
        self._outlines_on = True
        self._opacity = 0.5
        self._views: dict[str, _View] = {}
        image = image_data(labels)
        outline_table = np.full((count + 1, 4), OUTLINE_COLOR, np.uint8)
        outline_table[0] = 0
        self._outline_node = _add_label_map(scene, "Superpixel outlines", image, geometry, outline_table)
        self._outline_node.GetDisplayNode().SetSliceIntersectionThickness(1)
        preview_table = np.zeros((count + 1, 4), np.uint8)
        self._preview_node = _add_label_map(scene, "Superpixel proposals", image, geometry, preview_table)
        self._color_node = self._preview_node.GetDisplayNode().GetColorNode()
        self._table = vtk_to_numpy(self._color_node.GetLookupTable().GetTable())
        for node in self.nodes:
            node.SetAndObserveTransformNodeID(transform_id)
        closing = slicer.vtkMRMLScene.StartCloseEvent
        self._observer = scene.AddObserver(closing, lambda *_: self.remove())
        self.attach()

    @property
    def nodes(self) -> tuple[slicer.vtkMRMLLabelMapVolumeNode, slicer.vtkMRMLLabelMapVolumeNode]:
        """The hidden nodes of the outlines and of the preview."""
        return self._outline_node, self._preview_node

    @property
    def is_shown(self) -> bool:
        """Whether it wasn't removed yet."""
        return self._preview_node.GetScene() is not None

    @property
    def colors(self) -> np.ndarray:
        """Red, green, blue and opacity of each superpixel in the preview: uint8 (count + 1, 4). A copy."""
        return self._table.copy()

    def set_colors(self, superpixels: np.ndarray, colors: np.ndarray) -> None:
        """Color superpixels in the preview; the views follow.

        Parameters
        ----------
        superpixels : numpy.ndarray of integers, shape (n,)
            Labels, from 1.
        colors : numpy.ndarray of uint8, shape (n, 4) or (4,)
            Red, green, blue and opacity; opacity 0 shows nothing.
        """
        if len(superpixels):
            self._table[superpixels] = colors
            self._table[0] = 0  # what lies outside of the volume
            self._color_node.GetLookupTable().Modified()
            self._color_node.Modified()

    def clear_colors(self) -> None:
        """Let the preview show nothing."""
        self.set_colors(np.arange(len(self._table)), np.zeros(4, np.uint8))

    @property
    def outlines_on(self) -> bool:
        """Whether outlines are shown. Without them the views' own label layer is back."""
        return self._outlines_on

    @outlines_on.setter
    def outlines_on(self, on: bool) -> None:
        self._outlines_on = on
        self.attach()

    @property
    def opacity(self) -> float:
        """Opacity of the preview, 0..1."""
        return self._opacity

    @opacity.setter
    def opacity(self, opacity: float) -> None:
        self._opacity = opacity
        self.attach()

    def set_transform(self, transform_id: str | None) -> None:
        """Follow the parent transform of what is shown."""
        for node in self.nodes:
            if node.GetTransformNodeID() != transform_id:
                node.SetAndObserveTransformNodeID(transform_id)

    def attach(self) -> None:
        """Show it in all slice views; call it again when there are new ones."""
        if not self.is_shown:
            return
        composites = self._scene.GetNodesByClass("vtkMRMLSliceCompositeNode")
        composites.UnRegister(None)
        for index in range(composites.GetNumberOfItems()):
            composite = composites.GetItemAsObject(index)
            slice_node = self._scene.GetSingletonNode(composite.GetLayoutName(), "vtkMRMLSliceNode")
            view = self._views.setdefault(composite.GetID(), _View(composite, slice_node))
            if self._outlines_on:
                self._show_outlines(view)
            else:
                self._hide_outlines(view)
            self._show_preview(composite)

    def remove(self) -> None:
        """Take everything out of views and scene."""
        self._scene.RemoveObserver(self._observer)
        self._restore_views()
        for node in self.nodes:
            display = node.GetDisplayNode()
            for each in (node, display, display and display.GetColorNode()):
                if each is not None and each.GetScene() is self._scene:
                    self._scene.RemoveNode(each)

    def _show_outlines(self, view: _View) -> None:
        if not view.has_outlines:
            view.has_outlines = True
            view.label_volume = view.composite.GetLabelVolumeID()
            view.label_opacity = view.composite.GetLabelOpacity()
            view.used_outline = view.slice is not None and bool(view.slice.GetUseLabelOutline())
            view.composite.SetLabelVolumeID(self._outline_node.GetID())
            view.composite.SetLabelOpacity(1.0)
            if view.slice is not None:
                view.slice.SetUseLabelOutline(True)

    def _hide_outlines(self, view: _View) -> None:
        if view.has_outlines:
            view.has_outlines = False
            if view.composite.GetLabelVolumeID() != self._outline_node.GetID():
                return  # a person has chosen something else meanwhile
            label_volume = view.label_volume and self._scene.GetNodeByID(view.label_volume)
            view.composite.SetLabelVolumeID(label_volume.GetID() if label_volume else None)
            view.composite.SetLabelOpacity(view.label_opacity)
            if view.slice is not None:
                view.slice.SetUseLabelOutline(view.used_outline)

    def _show_preview(self, composite: slicer.vtkMRMLSliceCompositeNode) -> None:
        layer = self._preview_layer(composite)
        if layer is None:
            layer = _FIRST_ADDITIONAL_LAYER + composite.GetNumberOfAdditionalLayers()
            composite.SetNthLayerVolumeID(layer, self._preview_node.GetID())
        if composite.GetNthLayerOpacity(layer) != self._opacity:
            composite.SetNthLayerOpacity(layer, self._opacity)

    def _preview_layer(self, composite: slicer.vtkMRMLSliceCompositeNode) -> int | None:
        end = _FIRST_ADDITIONAL_LAYER + composite.GetNumberOfAdditionalLayers()
        layers = (
            layer
            for layer in range(_FIRST_ADDITIONAL_LAYER, end)
            if composite.GetNthLayerVolumeID(layer) == self._preview_node.GetID()
        )
        return next(layers, None)

    def _restore_views(self) -> None:
        for view in self._views.values():
            self._hide_outlines(view)
            layer = self._preview_layer(view.composite)
            if layer is not None:
                view.composite.SetNthLayerVolumeID(layer, None)
        self._views.clear()


def _add_label_map(
    scene: slicer.vtkMRMLScene, name: str, image: vtk.vtkImageData, geometry: Geometry, table: np.ndarray
) -> slicer.vtkMRMLLabelMapVolumeNode:
    """A hidden label map node with a color table of its own; nothing of it is saved."""
    lookup = vtk.vtkLookupTable()
    lookup.SetNumberOfTableValues(len(table))
    lookup.SetTableRange(0, len(table) - 1)
    lookup.SetTableValue(0, 0, 0, 0, 0)  # from now on the table isn't built from hues anymore
    vtk_to_numpy(lookup.GetTable())[:] = table
    colors = _hidden(slicer.vtkMRMLColorTableNode(), f"{name} colors")
    colors.SetTypeToUser()
    colors.SetAndObserveLookupTable(lookup, False)
    scene.AddNode(colors)
    display = _hidden(slicer.vtkMRMLLabelMapVolumeDisplayNode(), f"{name} display")
    scene.AddNode(display)
    display.SetAndObserveColorNodeID(colors.GetID())
    node = _hidden(slicer.vtkMRMLLabelMapVolumeNode(), name)
    set_geometry(node, geometry)
    node.SetAndObserveImageData(image)
    scene.AddNode(node)
    node.SetAndObserveDisplayNodeID(display.GetID())
    return node


def _hidden(node: slicer.vtkMRMLNode, name: str) -> slicer.vtkMRMLNode:
    node.SetName(name)
    node.SetHideFromEditors(True)
    node.SetSaveWithScene(False)
    node.SetUndoEnabled(False)
    return node
