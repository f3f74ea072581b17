"""Fingerprints and provenance: what a result was made from, and whether it is fresh."""
