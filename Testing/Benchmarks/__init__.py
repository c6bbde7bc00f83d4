"""Benchmarks: how well the methods segment, and how fast the parts are. ``python -m Testing.Benchmarks --help``."""
