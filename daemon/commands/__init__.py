"""The commands of `driftd`, imported one by one: a command costs what it needs, and no more."""
