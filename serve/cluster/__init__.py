"""Bulk prediction with a bundle on every machine of a Ray cluster; needs the extra [ray]."""
