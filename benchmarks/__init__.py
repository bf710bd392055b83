"""Measurements against plain references; each prints one JSON line on stdout."""
