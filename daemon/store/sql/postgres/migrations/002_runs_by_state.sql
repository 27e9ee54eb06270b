CREATE INDEX runs_by_state ON runs (state);
