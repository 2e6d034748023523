"""What a search is worth, on real reviews: the settings it finds compared with the defaults. `make bench-search`."""
