"""How much slower this core is than the one on which the limits of times were measured.

A limit in milliseconds that holds on one machine says nothing on another. A limit times `slowness` holds on both, and
still fails where the code itself became slower.
"""

from __future__ import annotations

import json
import time

_MEASURED_SECONDS = 0.0024
"""What the work took on the machine of the limits."""


def slowness() -> float:
    """How many times as long some work of Python takes here, 1 at least; not counting what other programs take."""
    text = json.dumps([{"name": str(number), "values": [number, 0.5]} for number in range(6000)])
    seconds = []
    for _ in range(5):
        began = time.thread_time()
        assert len(json.loads(text)) == 6000
        seconds.append(time.thread_time() - began)
    return max(1.0, min(seconds) / _MEASURED_SECONDS)
