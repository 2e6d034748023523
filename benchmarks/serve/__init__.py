"""What HTTP costs, beside the engine in a process of one's own: `make bench-serve`."""
