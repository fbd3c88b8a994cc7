"""Takes one guard away for the whole run, when ``tests.guards.run`` asks for it."""

from __future__ import annotations

import os

from tests.guards.removals import REMOVALS

WITHOUT = os.environ.get("COVEY_TEST_WITHOUT_GUARD")

if WITHOUT is not None:
    REMOVALS[WITHOUT]()
