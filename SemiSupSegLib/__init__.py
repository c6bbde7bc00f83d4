"""Semi-supervised segmentation for 3D Slicer and the command line.

The root of the package is the *hall*: what Slicer and the background worker both speak. It needs
the standard library, numpy, scipy and SimpleITK, nothing else. ``learning`` (the *engine*) needs
torch and never runs inside Slicer; ``slicer_bridge`` (the *desk*) needs slicer and vtk.
"""

__version__ = "0.1.0"
