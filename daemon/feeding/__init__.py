"""`driftd feed`: plays a data set into a stream as another serving system would. A program of its own; uses pandas."""
