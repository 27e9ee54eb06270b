"""Figures with a command: `make bench`, or `make bench ARGS=NAME` for those whose name starts so."""
