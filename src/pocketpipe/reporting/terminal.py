"""The end of a run in the terminal: headline, verdicts, warnings, and where the report lies."""

from collections.abc import Iterable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pocketpipe.evaluation import Evaluation
from pocketpipe.reporting.wording import Outcome, headline, outcome
from pocketpipe.verdict import Status, Verdict

STATUS_STYLE: dict[Status, str] = {"passed": "green", "failed": "bold red", "not measured": "yellow"}
OUTCOME_STYLE: dict[Outcome, str] = {"kept": "bold green", "partly measured": "bold yellow", "not kept": "bold red"}

WIDEST_FILE = 20
"""Columns up to which a file's name stays in one piece, and the other columns make room."""


def print_verdicts(
    evaluation: Evaluation, warnings: Iterable[str], report: Path | None = None, *, console: Console | None = None
) -> None:
    """Print the outcome of a run; `report` is where its page lies, if it has one. No colours without a terminal.

    Texts are printed as they are: square brackets in a file's or class's name are no markup.
    """
    console = console or Console()
    console.print()
    console.print(Text(headline(evaluation), style=OUTCOME_STYLE[outcome(evaluation)]))
    console.print()
    console.print(_table(evaluation, plain=not console.is_terminal))
    for reason, verdicts in _by_reason(evaluation).items():
        about = ", ".join(f"{verdict.requirement} of {verdict.file}" for verdict in verdicts)
        _line(console, f"{about}: ", reason, STATUS_STYLE[verdicts[0].status])
    if evaluation.nearest_plan and not evaluation.budget_kept:
        _line(console, "what would pass: ", evaluation.nearest_plan, "bold")
    for warning in dict.fromkeys(warnings):
        _line(console, "warning: ", warning, "yellow")
    if report is not None:
        console.print(Text.assemble(("report: ", "bold"), str(report)), soft_wrap=True)  # one piece, to be copied


def _table(evaluation: Evaluation, *, plain: bool) -> Table:
    table = Table(box=None if plain else box.SIMPLE_HEAD, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    longest = max((len(verdict.file) for verdict in evaluation.verdicts), default=0)
    for column in ("requirement", "asked", "got"):
        table.add_column(column, overflow="fold")
    table.add_column("measured on", overflow="fold", no_wrap=longest <= WIDEST_FILE)
    table.add_column("status", no_wrap=True)
    for verdict in evaluation.verdicts:
        status = Text(verdict.status, style=STATUS_STYLE[verdict.status])
        table.add_row(Text(verdict.requirement), Text(verdict.asked), Text(verdict.got), Text(verdict.file), status)
    return table


def _by_reason(evaluation: Evaluation) -> dict[str, list[Verdict]]:
    """Verdicts that share a reason, which is then said once."""
    reasons: dict[str, list[Verdict]] = {}
    for verdict in evaluation.verdicts:
        if verdict.reason:
            reasons.setdefault(verdict.reason, []).append(verdict)
    return reasons


def _line(console: Console, lead: str, text: str, style: str) -> None:
    console.print(Text.assemble((lead, style), text))
