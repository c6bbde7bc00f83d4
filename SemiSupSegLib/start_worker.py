"""Starts a worker by this file's absolute path, from any working directory: ``python -u <path> RUN``."""

import os
import sys

if __name__ == "__main__":
    # In place of this folder, whose files would hide packages of the same name.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # Before torch is loaded: threads of OpenMP that wait by spinning make every step slower on a busy computer.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from SemiSupSegLib.learning.worker import leave, main

    leave(main(sys.argv[1:]))
