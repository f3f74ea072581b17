"""The end of a run in the terminal."""

import io
from pathlib import Path

from rich.console import Console

from pocketpipe.evaluation import Evaluation
from pocketpipe.reporting.terminal import print_verdicts
from reporting.sample import QEMU, findings

REPORT = Path("data/08_reporting/a-rather-long-folder-name-for-this-run/that-goes-past-eighty-columns/report.html")


def printed(evaluation: Evaluation, *warnings: str, terminal: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=terminal, color_system="standard" if terminal else None)
    print_verdicts(evaluation, warnings, REPORT, console=console)
    return stream.getvalue()


def test_plain_where_there_is_no_terminal_and_within_80_columns() -> None:
    evaluation = findings(drop=0.0194, nearest="trial 26").evaluation
    lines = printed(evaluation, "weights have seen val " * 9).splitlines()
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert max(len(line) for line in lines if "report.html" not in line) <= 80
    assert f"report: {REPORT}" in lines, "in one piece, to be copied"


def test_says_outcome_every_verdict_nearest_plan_and_warnings() -> None:
    evaluation = findings(drop=0.0194, nearest="trial 26 (ladder)").evaluation
    text = printed(evaluation, "weights have seen val", "weights have seen val")
    assert text.strip().startswith("Budget not kept: accuracy_drop")
    assert text.count("failed") == 3
    assert text.count("passed") == 4
    assert "what would pass: trial 26 (ladder)" in text
    assert text.count("warning: weights have seen val") == 1


def test_reason_of_what_was_not_measured() -> None:
    text = " ".join(printed(findings(arm_measured=False).evaluation).split())
    assert "Budget kept as far as it was measured" in text
    assert f"accuracy_drop of aarch64/model.so, same answers of aarch64/model.so: {QEMU}" in text
    assert text.count(QEMU) == 1
    assert text.count(" not measured") == 2, "whole, not cut off at the edge"


def test_colours_in_a_terminal() -> None:
    text = printed(findings().evaluation, terminal=True)
    assert "\x1b[1;32mBudget kept" in text
    assert "\x1b[32mpassed" in text


def test_square_brackets_are_text() -> None:
    verdict = findings().evaluation.verdicts[0].model_copy(update={"file": "[red]x[/]", "reason": "[bold]why[/]"})
    text = printed(findings().evaluation.model_copy(update={"verdicts": (verdict,)}), "[blink]mind")
    assert "[red]x[/]" in text
    assert "[bold]why[/]" in text
    assert "[blink]mind" in text
