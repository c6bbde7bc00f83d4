"""``python -m SemiSupSegLib``, and by path: ``PythonSlicer <installed>/SemiSupSegLib train …`` from any folder."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Started by path, Python has put this folder itself on the path, where `files` and `labels` would be modules of
    # their own; the package lies one folder up.
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(here.parent), *(entry for entry in sys.path if Path(entry or ".").resolve() != here)]

    from SemiSupSegLib.command_line import main

    sys.exit(main())
