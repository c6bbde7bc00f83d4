"""The Qt-free half of the desk: a cohort in a MRML scene. Runs in Slicer and on slicer-core alike.

From the voxels up: ``nodes`` (volume nodes), ``segments`` (segmentation nodes read), ``results`` (nodes made) and
``plots``; ``cohort_nodes`` and ``cohort_scene`` (cases in and out of the scene), ``predictions`` and
``prediction_scene``; ``compute``, ``jobs`` and ``shelf`` (workers, runs, models); and ``project``: all of it, in
a few calls.
"""
