"""What HTTP costs, compared with calling the engine in-process: `make bench-serve`."""
