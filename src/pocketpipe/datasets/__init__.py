"""Kedro dataset classes: splits, networks, plans, records, folders, keyed by fingerprint."""
