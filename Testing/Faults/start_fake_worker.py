"""A worker whose task is the fake training; otherwise like ``SemiSupSegLib/start_worker.py``."""

import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from SemiSupSegLib.learning.worker import leave, main

    tasks = {"train": "Testing.Faults.fake_training:train", "slow": "Testing.Faults.slow_import:train"}
    leave(main(sys.argv[1:], tasks))
