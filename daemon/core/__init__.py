"""The pure core: no clock, no I/O, no logging, no randomness, no mutable module state."""
