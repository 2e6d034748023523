"""What a search is worth: the settings that it finds beside the defaults, on real reviews: `make bench-search`."""
