"""Interop: tests against the real Gradience, Bench and PEFT. `make test-interop` runs them in a separate venv."""

from __future__ import annotations

import os
import tempfile

#: Offline, two cores, and the cache of the `datasets` library in the temporary folder of the tests.
_kept = tempfile.TemporaryDirectory()
os.environ.update(
    HF_HOME=_kept.name,
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
)
