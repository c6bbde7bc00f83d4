"""The module's parts; in a folder of their own, because Slicer takes every loose file beside a module for a module."""
