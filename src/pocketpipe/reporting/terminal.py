"""The end of a run in the terminal: headline, verdicts, warnings, and where the report lies."""

from collections.abc import Iterable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pocketpipe.evaluation import Evaluation
from pocketpipe.reporting.wording import Outcome, headline, outcome
from pocketpipe.verdict import Status

STATUS_STYLE: dict[Status, str] = {"passed": "green", "failed": "bold red", "not measured": "yellow"}
OUTCOME_STYLE: dict[Outcome, str] = {"kept": "bold green", "partly measured": "bold yellow", "not kept": "bold red"}


def print_verdicts(
    evaluation: Evaluation, warnings: Iterable[str], report: Path, *, console: Console | None = None
) -> None:
    """Print the outcome of a run; `report` is where its page lies. Without colours where there is no terminal.

    Texts are printed as they are: square brackets in a file's or class's name are no markup.
    """
    console = console or Console()
    console.print()
    console.print(Text(headline(evaluation), style=OUTCOME_STYLE[outcome(evaluation)]))
    console.print()
    console.print(_table(evaluation, plain=not console.is_terminal))
    for verdict in evaluation.verdicts:
        if verdict.reason:
            _line(console, f"{verdict.requirement}: ", verdict.reason, STATUS_STYLE[verdict.status])
    if evaluation.nearest_plan and not evaluation.budget_kept:
        _line(console, "nearest plan that passes: ", evaluation.nearest_plan, "bold")
    for warning in dict.fromkeys(warnings):
        _line(console, "warning: ", warning, "yellow")
    console.print(Text.assemble(("report: ", "bold"), str(report)), soft_wrap=True)  # one piece, to be copied


def _table(evaluation: Evaluation, *, plain: bool) -> Table:
    table = Table(box=box.ASCII if plain else box.ROUNDED, header_style="bold")
    for column in ("requirement", "asked", "got", "measured on", "status"):
        table.add_column(column, overflow="fold", no_wrap=column == "status")
    for verdict in evaluation.verdicts:
        status = Text(verdict.status, style=STATUS_STYLE[verdict.status])
        table.add_row(Text(verdict.requirement), Text(verdict.asked), Text(verdict.got), Text(verdict.file), status)
    return table


def _line(console: Console, lead: str, text: str, style: str) -> None:
    console.print(Text.assemble((lead, style), text))
