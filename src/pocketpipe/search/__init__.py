"""Proposes plans; never trains by itself: it calls a trial function."""
