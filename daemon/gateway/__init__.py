"""The local model gateway: a process of its own that outlives the daemon. Imports nothing of driftd but core."""
