"""Commands: Kedro's `run` with our defaults and errors, and pocketpipe's own."""

import errno
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.startup import bootstrap_project
from kedro.utils import find_kedro_project
from yaml import YAMLError, safe_load

from pocketpipe import machine
from pocketpipe.errors import UserError
from pocketpipe.tracking.store import denied_by_server

SEQUENTIAL = "SequentialRunner"
"""The one of Kedro's runners that makes a stage after the other, as the hooks need it."""

BUDGET_MISSED, BAD_INPUT, FAULT = 1, 2, 70
"""Exit codes; 0 = all verdicts passed, or nothing to do. 70, as in sysexits.h: a fault in our code, or in yours."""


@click.group(name="pocketpipe")
def cli() -> None:
    """A network and a budget in, a verified binary out."""


def _run(**options: Any) -> None:
    """Run the pipeline: only what is missing or no longer fresh."""
    if options["pipeline"] and not options["pipelines"]:  # the same thing; Kedro warns about the old spelling
        options["pipelines"], options["pipeline"] = [options["pipeline"]], None
    _for_people(lambda: _run_in_project(options))


def _run_in_project(options: dict[str, Any]) -> None:
    project = _project()
    bootstrap_project(project)
    _refuse_recipe(_recipes(project, options), options["env"])
    from kedro.framework.project import pipelines

    _refuse_unknown("pipeline", options["pipelines"], list(pipelines))
    nodes = [node for name in options["pipelines"] or ["__default__"] for node in pipelines[name].nodes]
    _refuse_unknown("stage (--namespaces)", options["namespaces"], sorted({str(node.namespace) for node in nodes}))
    for option, name in (("--nodes", "node_names"), ("--from-nodes", "from_nodes"), ("--to-nodes", "to_nodes")):
        _refuse_unknown(f"node ({option})", options[name], sorted({node.name for node in nodes}))
    twice = Counter(node.name for node in set(nodes))
    if several := [name for name, count in twice.items() if count > 1]:
        raise UserError(
            f"--pipelines: {' and '.join(options['pipelines'])} make {several[0].partition('.')[0]} in two ways; "
            "run one after the other"
        )
    values = {value for name in options["pipelines"] or ["__default__"] for value in pipelines[name].datasets()}
    for option, name in (("--from-inputs", "from_inputs"), ("--to-outputs", "to_outputs")):
        _refuse_unknown(f"value ({option})", options[name], sorted(values))
    if options["load_versions"]:
        raise UserError("--load-versions: values have none; each is found by what it is made from")
    if options["tags"]:
        raise UserError("--tags: stages have none; choose them with --namespaces")
    if (options["runner"] or SEQUENTIAL).rpartition(".")[2] != SEQUENTIAL:
        raise UserError(f"--runner: {options['runner']} would run stages at once; leave it out, each uses all cores")
    callback = kedro_run.callback
    assert callback is not None
    callback(**options)


def _project() -> Path:
    """The project that this folder belongs to. Raises UserError."""
    project = find_kedro_project(Path.cwd())
    if project is None:
        raise UserError(f"{Path.cwd()} is not inside a pocketpipe project (a folder with conf/ and pyproject.toml)")
    return Path(project)


def _recipes(project: Path, options: dict[str, Any]) -> Path:
    """The folder of recipes: the project's, or what --conf-source names."""
    return Path(options.get("conf_source") or project / "conf")


def _refuse_recipe(recipes: Path, name: str | None) -> None:
    """Raises UserError for a recipe that is not there, or of which a file would be ignored without a word."""
    name = name or os.environ.get("KEDRO_ENV")
    _refuse_unknown("recipe (--env)", [name], [folder.name for folder in recipes.glob("*/")])
    folder = recipes / (name or "base")
    written = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.suffix in (".yml", ".yaml")]
    said = any(part.startswith("parameters") for file in written for part in file.parts)
    for file in written:
        if file.stem.startswith(READ_BY_KEDRO):
            continue
        if not said or get_close_matches(file.stem, READ_BY_KEDRO, 1):
            raise UserError(f"{folder / file}: nobody reads it; a recipe's file begins with parameters (or catalog)")


READ_BY_KEDRO = ("parameters", "catalog", "credentials", "globals")
"""How the names of files begin that a recipe consists of; others (a plugin's mlflow.yml) are nobody's mistake."""


def _refuse_unknown(kind: str, asked: Iterable[str | None], known: Sequence[str]) -> None:
    for name in asked:
        if name and name not in known:
            raise UserError(f"{kind}: {name!r} is unknown; known: {', '.join(sorted(known))}")


def _as_here(option: click.Parameter) -> click.Parameter:
    """Kedro's option, with our default and our words for a run file that it cannot read."""
    if option.name == "config":
        option.callback = _after_check(option.callback)
    if option.name == "env" and isinstance(option, click.Option):
        option.help = "Recipe: a folder of conf/, merged over conf/base (which alone is the default)."
    if option.name != "only_missing_outputs":
        return option
    return click.Option(
        ["--only-missing-outputs/--all-outputs"],
        default=True,
        show_default=True,
        help="Run only stages whose outputs are missing or no longer fresh, or all: the evaluation is measured again, "
        "of the others what is there and fresh stays.",
    )


def _after_check(read: Callable[..., Any] | None) -> Callable[..., Any]:
    def callback(context: click.Context, option: click.Parameter, name: str | None) -> Any:
        if name:
            _for_people(lambda: _run_file(Path(name)))
        return name if read is None else read(context, option, name)

    return callback


cli.add_command(
    click.Command("run", callback=_run, params=[_as_here(option) for option in kedro_run.params], help=_run.__doc__)
)


delivery_folder = click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))


@cli.command()
@delivery_folder
def verify(folder: Path) -> None:
    """Recompute the hashes of a delivery FOLDER and hold them against its metadata."""
    from pocketpipe.lineage.verify import verify as check

    def show() -> None:
        findings = check(folder)
        click.echo("\n".join(str(finding) for finding in findings))
        if not all(finding.ok for finding in findings):
            sys.exit(BUDGET_MISSED)

    _for_people(show)


@cli.command()
@delivery_folder
def trace(folder: Path) -> None:
    """Tell what a delivery FOLDER was made from: plan, data, code."""
    from pocketpipe.lineage.verify import trace as tell

    _for_people(lambda: click.echo("\n".join(tell(folder, machine.output_root()))))


existing_file = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
output_file = click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Where to write.")
force = click.option("--force", is_flag=True, help="Overwrite a file that is there.")


@cli.command()
@existing_file
@output_file
@force
def pack(file: Path, output: Path | None, force: bool) -> None:
    """Make an ONNX FILE smaller for transport; unpack gives it back to the byte."""
    from pocketpipe.exporting.files import pack_file
    from pocketpipe.reporting.packed import print_packed

    def show() -> None:
        made, written = pack_file(file, output, overwrite=force)
        print_packed(made, file.stat().st_size)
        click.echo(f"packed: {written}")

    _for_people(show)


@cli.command()
@existing_file
@output_file
@force
def unpack(file: Path, output: Path | None, force: bool) -> None:
    """Give back the ONNX file that was packed into FILE."""
    from pocketpipe.exporting.files import unpack_file

    def show() -> None:
        written = unpack_file(file, output, overwrite=force)
        click.echo(
            f"unpacked: {written} ({file.stat().st_size:,} -> {written.stat().st_size:,} bytes, SHA-256 as packed)"
        )

    _for_people(show)


@cli.command()
@click.argument("name", type=click.Choice(["cifar10"]))
def download(name: str) -> None:
    """Download a public data set into POCKETPIPE_DATA."""
    from pocketpipe.tasks.download import download as fetch

    _for_people(lambda: fetch(name, machine.data_root()))


@cli.command()
@click.argument("name", required=False)
@click.option("--path", "path_only", is_flag=True, help="Only the folder of NAME's files: deliveries/ lies in it.")
def champion(name: str | None, path_only: bool) -> None:
    """Show the champion of the registered model NAME (all models, if no name is given)."""
    from pocketpipe.tracking.describe import describe_champion, describe_champions, named_champion
    from pocketpipe.tracking.opening import open_registry

    def show() -> None:
        registry = open_registry()
        if path_only:
            if name is None:
                raise UserError(f"--path: name a model; in the registry: {', '.join(registry.names()) or 'none yet'}")
            click.echo(named_champion(registry, name).folder)
            return
        for text in [describe_champion(registry, name)] if name else describe_champions(registry):
            click.echo(text)

    _for_people(show)


@cli.command()
@click.argument("name")
def rollback(name: str) -> None:
    """Make the champion before the present one of the registered model NAME champion again."""
    from pocketpipe.tracking.opening import open_registry

    _for_people(lambda: click.echo(f"{name}: version {open_registry().rollback(name)} is the champion again"))


@cli.command()
@click.option("--cron", required=True, help='When: minute hour day month weekday, as in "0 3 * * *".')
@click.option("--config", default="pipelines/retrain.yml", show_default=True, help="Run file for `kedro run`.")
@click.option("--env", default=None, help="Recipe: the Kedro environment to run in.")
def schedule(cron: str, config: str, env: str | None) -> None:
    """Retrain on schedule, in the foreground: one run at a time, missed runs made up for by one."""
    from pocketpipe.scheduling.foreground import run_schedule

    command = [sys.executable, "-m", "kedro", "run", "--config", config, *(["--env", env] if env else [])]
    lock = machine.output_root() / "workspaces" / "schedule.lock"

    def run() -> None:
        _refuse_recipe(_recipes(_project(), _run_file(Path(config))), env)
        sys.exit(run_schedule(cron, command, lock=lock))

    _for_people(run)


def _run_file(file: Path) -> dict[str, Any]:
    """Options of `kedro run` that a run file gives. Raises UserError for one that Kedro could not read."""
    if not file.is_file():
        raise UserError(f"--config: {file} is not a file (it counts from {Path.cwd()})")
    content = safe_load(file.read_text())
    options = content.get("run") if isinstance(content, dict) else None
    if not isinstance(options, dict):
        raise UserError(f"--config: {file}: options of `kedro run` stand under `run:`, as in pipelines/retrain.yml")
    return options


@cli.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(port: int) -> None:
    """Browse the experiments in MLflow's pages, on this machine only."""
    from pocketpipe.tracking.server import serve

    _for_people(lambda: sys.exit(serve(machine.tracking_uri(), machine.artifact_root(), port)))


def _for_people(work: Callable[[], object]) -> None:
    """Turn what a user can mend into its message and an exit code; the rest is shown whole, with another code."""
    from pocketpipe.hooks import BudgetMissed, NothingChanged

    try:
        with _ended_in_order():
            work()
    except click.ClickException as error:  # Kedro's, of its options
        error.show()
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # nobody reads on
        raise
    except Exception as error:
        mendable = _user_error(error)
        if mendable is None:
            sys.excepthook(type(error), error, error.__traceback__)
            sys.exit(FAULT)
        click.echo(str(mendable), err=True)
        if not isinstance(mendable, NothingChanged):
            sys.exit(BUDGET_MISSED if isinstance(mendable, BudgetMissed) else BAD_INPUT)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C: workers end, nothing half-written stays, the MLflow run is closed."""
    former = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or former in (signal.SIG_IGN, None):
        yield
        return

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _user_error(error: BaseException | None) -> UserError | None:
    """The UserError behind an error (Kedro wraps what a dataset raises), or of what the machine or a server denies."""
    while error is not None and not isinstance(error, UserError):
        if isinstance(error, YAMLError):
            return UserError(" ".join(str(error).split()))
        if isinstance(error, OSError) and error.errno in DENIED:
            hint = " (docs/scheduling.md, Room)" if error.errno in FULL else ""
            return UserError(f"{error.filename or 'a file'}: {error.strerror}{hint}")
        if (said := denied_by_server(error)) is not None:
            return UserError(said)
        error = error.__cause__  # what was merely being handled when a fault happened does not explain it
    return error


FULL = (errno.ENOSPC, errno.EDQUOT)
DENIED = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM)
"""What is wrong with a place, not with code: no room, or not to be written."""
