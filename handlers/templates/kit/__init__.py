"""What the approved programs share: their call, the stream's rows, a tabular learner, the registry.

It stands alone (pandas, scikit-learn, MLflow, nothing of driftd), so that the programs also run in an image of their own.
"""

from __future__ import annotations

import os

# Before numpy is loaded: on a busy machine OpenMP threads wait for each other a hundred times longer than they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# MLflow otherwise reports to its makers, and draws a bar per file.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
