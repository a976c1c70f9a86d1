"""Compare the answers with the real Gradience, Bench and PEFT. `make test-interop` runs these in a separate venv."""

from __future__ import annotations

import os
import tempfile

#: Nothing here needs a network, two cores are few, and what the data sets' library keeps goes with the tests.
_kept = tempfile.TemporaryDirectory()
os.environ.update(
    HF_HOME=_kept.name,
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
)
