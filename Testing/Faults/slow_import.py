"""A task that takes a minute to import, as torch may from a cold disk."""

import time

time.sleep(60)
