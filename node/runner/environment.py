"""What a child process is told of our environment: what it needs to find Python and compute, and no
secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PASSED_ON: Final = ("PATH", "PYTHONPATH", "LANG", "TMPDIR")
THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
OFFLINE: Final = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # torch looks for a folder to cache compiled code in when Transformers is imported; nothing is
    # compiled, and a confined runner could make none: one that is there will do
    "TORCHINDUCTOR_CACHE_DIR": "/",
    "TOKENIZERS_PARALLELISM": "false",  # its threads would come on top of those we chose
}


def child_environment(environ: Mapping[str, str], threads: int) -> dict[str, str]:
    """Return the environment of a runner that may use ``threads`` threads."""
    passed_on = {name: environ[name] for name in PASSED_ON if name in environ}
    return {**passed_on, **OFFLINE, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
