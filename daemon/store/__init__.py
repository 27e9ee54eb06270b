"""Where driftd remembers: named SQL statements in files, a store that runs them, and rows to and from the core's types."""
