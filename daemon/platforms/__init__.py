"""Where work runs: jobs, and the serving of models. `local` here; a cluster has the same two protocols."""
