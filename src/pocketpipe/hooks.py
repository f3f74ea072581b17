"""Kedro's hooks: check first, know what is fresh, lock a stage while it is made, tell MLflow and the terminal."""

import atexit
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from filelock import FileLock, Timeout
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import DataCatalog, DatasetError
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from pocketpipe import machine
from pocketpipe.champion import REPORT
from pocketpipe.config import Config, with_multiples
from pocketpipe.datasets.champion import ChampionDataset, RegistryDataset, YardstickDataset
from pocketpipe.datasets.fresh import FreshDataset
from pocketpipe.errors import UserError, first_line
from pocketpipe.evaluation import Evaluation
from pocketpipe.freshness import Ingredients, hand_over, ingredients, request_fingerprint
from pocketpipe.lineage.provenance import git_commit, provenance_now, read_provenance
from pocketpipe.preflight import check_feasible, checked_config
from pocketpipe.record import StageRecord, warnings_of
from pocketpipe.reporting.terminal import print_verdicts
from pocketpipe.storage import remove_whole
from pocketpipe.tracking.opening import RegistryOfRun, open_registry
from pocketpipe.tracking.registry import OVERTAKEN, Registered
from pocketpipe.tracking.runs import RunTracker

log = logging.getLogger(__name__)


class BudgetMissed(UserError):
    """The run is complete and its files are kept, but a verdict failed."""


class NothingChanged(UserError):
    """A retraining has nothing to do: data and request are those of the champion."""


@dataclass
class Stage:
    """A stage that is being made: what is needed to close it."""

    name: str
    started: float
    lock: FileLock
    unsaved: set[str]


@dataclass(eq=False)  # pluggy keeps plugins in a set
class RunHooks:
    """One instance serves one run."""

    config: Config | None = None
    catalog: DataCatalog | None = None
    started: float = 0.0
    tracker: RunTracker | None = None
    stage: Stage | None = None
    ingredients: dict[str, Ingredients] = field(default_factory=dict)

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Type the parameters before Kedro touches them: all mistakes at once, in our words."""
        # A section in two files, a list for a mapping: libraries have no base class for these in common.
        try:
            parameters = context.config_loader["parameters"]
        except Exception as error:
            raise UserError(f"recipe: {' '.join(str(error).split())}") from error
        context.config_loader["parameters"] = with_multiples(parameters)
        self.config = checked_config(context.config_loader["parameters"])

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Check, compute what is fresh, check again for what will run, open the MLflow run."""
        config = self._config()
        self.started = perf_counter()
        self.catalog = catalog
        names = run_params["pipeline_names"] or ["__default__"]
        # The whole chain, so that a part of it finds what earlier runs made; and what is registered outside of it.
        whole = sum((pipelines[name] for name in names), pipelines["retrain" if "retrain" in names else "compress"])
        _refuse_without_entry(whole, catalog)
        try:
            self.ingredients = ingredients(whole, catalog, config)
        except (UserError, OSError):  # the data cannot be read: told together with what else cannot be had here
            check_feasible(config, {str(node.namespace) for node in pipeline.nodes})
            raise
        hand_over(whole, catalog, self.ingredients)
        if any(node.namespace == "promote" for node in pipeline.nodes):
            _forget_what_was_not_decided(catalog)
        asked_anew = not run_params.get("only_missing_outputs", True)
        missing = _to_be_made(pipeline, catalog, measured_again=asked_anew)
        stale = pipeline.nodes if asked_anew else missing
        check_feasible(config, {str(node.namespace) for node in stale})
        if any(node.namespace == "promote" for node in stale):
            open_registry().champion(config.registered_name)  # its files are met in the last stage
        self._open_run(names, run_params, config)
        request = request_fingerprint(self.ingredients, config)
        if "retrain" in names:
            self._stop_if_nothing_changed(_champion(catalog), request)
        run_id, beside = self._tracker().run_id, _yardstick(catalog) if "retrain" in names else None
        registry = RegistryOfRun(open_registry(), config.registered_name, run_id, request, beside)
        _registry(catalog).run = registry
        self._skip([node for node in pipeline.nodes if node not in stale], catalog)
        self._hand_provenance(whole, catalog)

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Open the stage: only one process makes the same stage at a time.

        One that had to wait takes over what lies in the workspace (trainings, trials, compiled targets) and makes the
        rest again; what the first one has stored stays.
        """
        name = str(node.namespace)
        made_from = self.ingredients[node.name]
        lock = _stage_lock(f"{name}-{made_from.fingerprint}")
        self.stage = Stage(name, perf_counter(), lock, set(node.outputs))
        self._note_who_made_the_inputs(node)
        log.info("%s ...", name)
        self._tracker().start_stage(name, made_from.parameters)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any, node: Node) -> None:
        """Log each output once it lies in its place; the last one closes the stage."""
        stage, tracker = self._stage(), self._tracker()
        if isinstance(data, StageRecord):
            data = self._catalog().load(dataset_name)  # what is kept, if it was there before
            tracker.log_record(data)
            _tell(data, perf_counter() - stage.started)
        if dataset_name == "search_record":  # which says what the scores of the trials are of
            tracker.log_trials(self._catalog().load("trials"), data.data)
        if dataset_name not in UNLOGGED:
            tracker.log_artifacts(_fresh(self._catalog(), dataset_name).path, dataset_name)
        stage.unsaved.discard(dataset_name)
        if not stage.unsaved:
            self._close_stage(None)

    @hook_impl
    def on_node_error(self, error: Exception) -> None:
        """Close the stage as failed."""
        with _as_far_as_possible():
            self._close_stage(error)

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """Close the run as failed."""
        if self.stage is not None:
            with _as_far_as_possible():
                self._close_stage(error)
        with _as_far_as_possible():
            self._tracker().end("FAILED", error=_said(error))

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Show the verdicts, close the run. Raises BudgetMissed if one failed."""
        tracker, outputs = self._tracker(), pipeline.all_outputs()
        if "evaluation" not in outputs:
            with _as_far_as_possible():
                tracker.end()
            return
        evaluation: Evaluation = catalog.load("evaluation")
        promotion = catalog.load("promotion") if "promotion" in outputs else None
        if promotion is not None:
            with _as_far_as_possible():
                promotion = open_registry().as_of_now(promotion)
        with _as_far_as_possible():
            tracker.end(evaluation=evaluation, promotion=promotion)
        # By fingerprint: `latest` may be another run's by now.
        report = _fresh(catalog, "report").path / REPORT if "report" in outputs else None
        print_verdicts(evaluation, _warnings(pipeline, catalog), report)
        if "deliveries" in outputs:
            log.info("deliveries: %s", _fresh(catalog, "deliveries").path / "content")
        log.info("whole run: %.0f s", perf_counter() - self.started)
        if not evaluation.budget_kept:
            raise BudgetMissed("the budget was not kept; all files are kept" + (", see the report" if report else ""))

    def _open_run(self, names: list[str], run_params: dict[str, Any], config: Config) -> None:
        self.tracker = RunTracker(open_registry().store)
        tags = {"recipe": run_params["env"] or "base", "model": config.registered_name}
        self.tracker.start(", ".join(names), config.model_dump(mode="json"), tags)
        # For Ctrl-C, to which Kedro has no hook; otherwise the run has ended by then, and nothing happens.
        atexit.register(self.tracker.end, "KILLED", "interrupted")

    def _stop_if_nothing_changed(self, champion: Registered | None, request: str) -> None:
        if champion is None or champion.tags.get("request") != request:
            return
        line = f"retrain: nothing changed since champion version {champion.version} of {champion.name}"
        self._tracker().end(tags={"retrain": "nothing changed", "champion": champion.version})
        raise NothingChanged(line)

    def _skip(self, nodes: list[Node], catalog: DataCatalog) -> None:
        for node in nodes:
            name = next(output for output in node.outputs if output.endswith("_record"))
            provenance = read_provenance(_fresh(catalog, name).path)
            self._tracker().skipped_stage(str(node.namespace), catalog.load(name), provenance.run)
        for name in (output for node in nodes for output in node.outputs):
            _fresh(catalog, name).point_latest()
        if nodes:
            log.info("already made: %s", ", ".join(str(node.namespace) for node in nodes))

    def _hand_provenance(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        commit = git_commit(Path.cwd())
        for node in pipeline.nodes:
            made_from = self.ingredients[node.name]
            provenance = provenance_now(
                fingerprint=made_from.fingerprint,
                inputs=made_from.inputs,
                stage=made_from.stage,
                parameters={name: json.dumps(value) for name, value in made_from.parameters.items()},
                modules=made_from.modules,
                code=made_from.code,
                engines=made_from.engines,
                run=self._tracker().run_id,
                commit=commit,
            )
            for output in node.outputs:
                _fresh(catalog, output).provenance = provenance

    def _note_who_made_the_inputs(self, node: Node) -> None:
        catalog = self._catalog()
        stored = {name: _stored_by(catalog, name) for name in node.inputs}
        known = {name: run for name, run in stored.items() if run is not None}
        for output in (_fresh(catalog, name) for name in node.outputs):
            if output.provenance is not None:
                output.provenance = output.provenance.model_copy(update={"input_runs": known})

    def _close_stage(self, error: Exception | None) -> None:
        stage, self.stage = self._stage(), None
        try:
            self._tracker().end_stage(error=None if error is None else _said(error))
        finally:
            stage.lock.release()

    def _config(self) -> Config:
        assert self.config is not None, "after_context_created comes first"
        return self.config

    def _catalog(self) -> DataCatalog:
        assert self.catalog is not None, "before_pipeline_run comes first"
        return self.catalog

    def _tracker(self) -> RunTracker:
        assert self.tracker is not None, "before_pipeline_run comes first"
        return self.tracker

    def _stage(self) -> Stage:
        assert self.stage is not None, "before_node_run comes first"
        return self.stage


@contextmanager
def _as_far_as_possible() -> Iterator[None]:
    """What MLflow is to be told at the end: a server that is gone must not hide what has happened."""
    try:
        yield
    except Exception as failure:
        log.warning("warning: MLflow was not told how it ended: %s", first_line(failure))


UNLOGGED = ("splits", "test_split")
"""Outputs that are not copied to MLflow: the user's data stays where it is."""


def _fresh(catalog: DataCatalog, name: str) -> FreshDataset[Any]:
    """The dataset of that name. Raises UserError if a recipe's catalog made it something else."""
    dataset = catalog[name]
    if not isinstance(dataset, FreshDataset):
        raise UserError(f"catalog: {name} is a {type(dataset).__name__}; pocketpipe needs a FreshDataset")
    return dataset


def _refuse_without_entry(pipeline: Pipeline, catalog: DataCatalog) -> None:
    missing = sorted(
        name for name in pipeline.datasets() if name not in catalog and not name.startswith(("params:", "parameters"))
    )
    if missing:
        raise UserError(f"conf/base/catalog.yml: no entry for {', '.join(missing)}; add one as for the other outputs")


def _stage_lock(name: str) -> FileLock:
    """Held while a stage is made; the kernel releases it if the process dies."""
    folder = machine.output_root() / "workspaces" / "locks"
    lock = FileLock(folder / f"{name}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:  # an OSError, too
        log.info("%s: another run makes the same; waiting for it", name.partition("-")[0])
        lock.acquire()
    except OSError as error:
        raise UserError(f"output folder {machine.output_root()}: cannot be written ({error.strerror})") from error
    return lock


def _champion(catalog: DataCatalog) -> Registered | None:
    dataset = catalog["champion"]
    assert isinstance(dataset, ChampionDataset)
    return dataset.registered


def _yardstick(catalog: DataCatalog) -> Registered | None:
    dataset = catalog["yardstick"]
    assert isinstance(dataset, YardstickDataset)
    return dataset.registered


def _registry(catalog: DataCatalog) -> RegistryDataset:
    dataset = catalog["registry"]
    assert isinstance(dataset, RegistryDataset)
    return dataset


def _forget_what_was_not_decided(catalog: DataCatalog) -> None:
    """Let the promote stage run again if its version is not in this registry, if it was told to run again, if it made
    a champion that was rolled back since, or if it was refused beside a champion that is none any more.
    """
    outputs = [_fresh(catalog, name) for name in ("promotion", "promote_record")]
    if not any(output.exists() for output in outputs):
        return
    lock = _stage_lock(f"promote-{outputs[0].fingerprint}")
    try:
        if not _still_holds(outputs):
            for output in outputs:
                remove_whole(output.path)
    finally:
        lock.release()


def _still_holds(outputs: list[FreshDataset[Any]]) -> bool:
    """Whether the registry bears out what the promote stage has stored; not if that cannot be read."""
    try:
        promotion, _ = (output.load() for output in outputs)
    except DatasetError:
        return False
    registry = open_registry()
    if not registry.has(promotion) or any(reason.startswith(OVERTAKEN) for reason in promotion.reasons):
        return False
    if promotion.promoted:
        return not registry.was_rolled_back(promotion)
    return registry.champion_version(promotion.name) in (promotion.against, promotion.version)


def _to_be_made(pipeline: Pipeline, catalog: DataCatalog, *, measured_again: bool = False) -> list[Node]:
    """Nodes of which an output is missing or of another run than the rest, or was made from what another run has made
    again since, or this one will.

    The same fingerprint does not promise the same bytes: not of tuned libraries, not of a training on a GPU. A verdict
    must be about the file that it stands beside. Nor is latency what it was on a busy machine: with `measured_again`
    the evaluation counts as missing, and replaces the one that is there.
    """
    found: list[Node] = []
    made_again: set[str] = set()
    for node in pipeline.nodes:
        outputs = [_fresh(catalog, name) for name in node.outputs]
        to_measure = measured_again and node.namespace == "evaluate"
        of_its_inputs = all(output.exists() and _is_of_its_inputs(output, catalog) for output in outputs)
        of_one_run = len({_stored_by(catalog, name) for name in node.outputs}) <= 1
        if not to_measure and of_its_inputs and of_one_run and made_again.isdisjoint(node.inputs):
            continue
        for output in outputs:
            output.outdated = output.stored_provenance()
        found.append(node)
        made_again.update(node.outputs)
    return found


def _is_of_its_inputs(output: FreshDataset[Any], catalog: DataCatalog) -> bool:
    """Whether the inputs that are stored are still those that it was made from, as far as that is known."""
    provenance = output.stored_provenance()
    made_from = {} if provenance is None else provenance.input_runs
    return all(_stored_by(catalog, name) in (run, None) for name, run in made_from.items())


def _stored_by(catalog: DataCatalog, name: str) -> str | None:
    """The run that made what is stored of a dataset; None for what is not stored, or comes from outside."""
    dataset = catalog[name]
    provenance = dataset.stored_provenance() if isinstance(dataset, FreshDataset) else None
    return None if provenance is None else provenance.run


def _warnings(pipeline: Pipeline, catalog: DataCatalog) -> tuple[str, ...]:
    """All warnings of the pipeline's stages, each once."""
    names = sorted(name for name in pipeline.all_outputs() if name.endswith("_record") and catalog.exists(name))
    return warnings_of(catalog.load(name) for name in names)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _tell(record: StageRecord, seconds: float) -> None:
    """One line a stage, and its warnings."""
    figures = ", ".join(f"{name} {value:.4g}" for name, value in list(record.metrics.items())[:4])
    log.info("%s done in %.1f s: %s", record.stage, seconds, record.headline or figures)
    for line in record.warnings:
        log.warning("warning: %s", line)
