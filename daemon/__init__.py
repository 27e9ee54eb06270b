"""driftd: event-driven MLOps automation. `daemon/core` decides, everything else does."""

__version__ = "0.1.0"
