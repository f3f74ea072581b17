"""Metrics as text: apart from other words, so that stages which say a figure do not depend on how pages are worded."""

from __future__ import annotations

ABSENT = "–"


def metric_text(value: float | None) -> str:
    """A metric in the form in which a budget is written.

    >>> metric_text(0.975), metric_text(123.456), metric_text(3.21e-5), metric_text(None)
    ('0.9750', '123.5', '3.21e-05', '–')
    """
    return ABSENT if value is None else f"{value:{_digits(value)}}"


def difference_text(value: float) -> str:
    """A difference of two metrics, with its sign.

    >>> difference_text(-0.0056), difference_text(12.5)
    ('-0.0056', '+12.5')
    """
    return f"{value:+{_digits(value)}}"


def _digits(value: float) -> str:
    if 0 < abs(value) < 1e-3:
        return ".3g"  # an error in a small unit; four decimals would be zeros
    return ".4f" if abs(value) < 10 else _figures(value)


def figures_text(value: float) -> str:
    """A size or a time, four figures of it at least, and never as a power of ten.

    >>> figures_text(49.456), figures_text(12345.67)
    ('49.46', '12345.7')
    """
    return f"{value:{_figures(value)}}"


def _figures(value: float) -> str:
    return ".4g" if abs(value) < 1000 else ".1f"
