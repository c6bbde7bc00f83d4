"""Stands in for PythonSlicer: starts the interpreter as its child, passes codes on and hides signals."""

import subprocess
import sys

if __name__ == "__main__":
    code = subprocess.Popen([sys.executable, *sys.argv[1:]]).wait()
    sys.exit(code if code >= 0 else 1)
