"""Run by ctest inside a real Slicer: the library works there, and torch stays out of the process."""

import importlib
import pkgutil
import sys
import unittest

import SemiSupSegLib

ENGINE_PACKAGES = {"torch", "monai", "skimage", "safetensors"}


class SemiSupSegLibTest(unittest.TestCase):
    def test_everything_outside_the_engine_imports_without_engine_packages(self):
        before = ENGINE_PACKAGES & set(sys.modules)
        for module in pkgutil.walk_packages(SemiSupSegLib.__path__, "SemiSupSegLib."):
            if not module.name.startswith(("SemiSupSegLib.learning", "SemiSupSegLib.__main__")):
                with self.subTest(module.name):
                    importlib.import_module(module.name)
        self.assertEqual(ENGINE_PACKAGES & set(sys.modules), before)
