"""A bundle on every machine of a Ray cluster, for bulk prediction; the extra [ray]."""
