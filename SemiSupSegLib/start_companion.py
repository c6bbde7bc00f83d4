"""Starts the companion by this file's absolute path, from any working directory: ``python -u <path>``."""

import os
import sys

if __name__ == "__main__":
    # In place of this folder, whose files would hide packages of the same name.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from SemiSupSegLib.companion import main

    sys.exit(main())
