"""Figures, the one-page report and the verdict table."""
