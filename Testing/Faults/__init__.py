"""The fault laboratory: real processes, real files, real signals; ``python -m Testing.Faults [--quick]``."""
