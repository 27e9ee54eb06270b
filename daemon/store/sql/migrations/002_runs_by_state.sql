-- How many runs are in each state is asked with every scrape of the metrics: from this index alone, not from the documents.
CREATE INDEX runs_by_state ON runs (state);
