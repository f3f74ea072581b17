"""RunTracker: one pipeline run as MLflow shows it; stages are its children, trials the children of their stage.

Every request names its run: MLflow's global "active run" is never touched, so that nothing leaks into the next run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pocketpipe.evaluation import Evaluation
from pocketpipe.lineage.provenance import git_commit
from pocketpipe.record import StageRecord
from pocketpipe.tracking import entries
from pocketpipe.tracking.datasets import dataset_inputs
from pocketpipe.tracking.gates import Promotion
from pocketpipe.tracking.note import StageSummary, Summary, describe_run, describe_stage, last_line
from pocketpipe.tracking.stale import PARENT, close_stale_runs, process_tags
from pocketpipe.tracking.store import Store

if TYPE_CHECKING:
    from pocketpipe.search.trial import Trial

Status = Literal["FINISHED", "FAILED", "KILLED"]

NOTE = "mlflow.note.content"


@dataclass
class _OpenStage:
    name: str
    run_id: str
    started: float
    record: StageRecord | None = None
    trials: set[int] = field(default_factory=set)


class RunTracker:
    """Writes one pipeline run. Call `start`, then stages one after another, then `end`.

    A process that is killed leaves its run open; the next `start` on the same host closes it as KILLED.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._run_id: str | None = None
        self._experiment_page = f"#/experiments/{store.experiment_id}/runs"
        self._summary = Summary()
        self._title = ""
        self._stage: _OpenStage | None = None

    @property
    def run_id(self) -> str:
        """Id of the pipeline's run. Raises RuntimeError before `start`."""
        if self._run_id is None:
            raise RuntimeError("the run was not started")
        return self._run_id

    def start(self, pipeline: str, parameters: Mapping[str, Any], tags: Mapping[str, Any] | None = None) -> str:
        """Open the run; its id. `parameters` may be nested; the git commit of the working folder becomes a tag."""
        close_stale_runs(self.store)
        commit = git_commit(Path.cwd())
        own = {"pipeline": pipeline, **process_tags(), **_source_tags(pipeline)}
        if commit is not None:
            own |= {"mlflow.source.git.commit": commit.hash, "git.dirty": entries.text(commit.dirty)}
        own |= {entries.key(name): entries.text(value) for name, value in (tags or {}).items()}
        self._title = _title(pipeline, parameters)
        self._run_id = self._create(self._title, own)
        self._summary = Summary(commit=None if commit is None else str(commit))
        entries.log(self.store.client, self.run_id, parameters=entries.flatten(parameters))
        return self.run_id

    def start_stage(self, name: str, parameters: Mapping[str, Any] | None = None) -> str:
        """Open the child run of a stage; its id. A stage that is still open ends here."""
        self.end_stage()
        run_id = self._create(name, {**self._child_tags(self.run_id), "stage": name})
        entries.log(self.store.client, run_id, parameters=entries.flatten(parameters or {}))
        self._stage = _OpenStage(name, run_id, time.monotonic())
        return run_id

    def log_record(self, record: StageRecord) -> None:
        """Figures, curves, facts, warnings and the data of the open stage."""
        stage = self._open_stage()
        stage.record = record
        tags: dict[str, Any] = {**record.facts, "data": record.data}
        if record.warnings:
            tags["warnings"] = "\n".join(record.warnings)
            self.store.client.log_text(stage.run_id, "\n".join(record.warnings) + "\n", "warnings.txt")
        tags[NOTE] = describe_stage(record)
        entries.log(self.store.client, stage.run_id, metrics=entries.metrics_of(record), tags=tags)
        datasets = dataset_inputs(record)
        if datasets:
            for run_id in (stage.run_id, self.run_id):
                self.store.client.log_inputs(run_id, datasets=datasets)

    def log_trials(self, trials: Sequence[Trial], data: str) -> None:
        """Each trial as a child of the open stage, `data`: what their scores are of.

        Those that this stage has logged already are left out.
        """
        stage = self._open_stage()
        for trial in trials:
            if trial.index not in stage.trials:
                self._log_trial(stage.run_id, trial, data)
                stage.trials.add(trial.index)

    def log_artifacts(self, path: Path, under: str | None = None) -> None:
        """A file, or what is in a folder, as artefacts of the open stage (of the run, between stages).

        `under` is the folder that they appear in; by default a file lies at the top, a folder keeps its name.
        """
        run_id = self._stage.run_id if self._stage else self.run_id
        if path.is_dir():
            self.store.client.log_artifacts(run_id, str(path), artifact_path=under or path.name)
        else:
            self.store.client.log_artifact(run_id, str(path), artifact_path=under)

    def end_stage(self, error: str | None = None) -> None:
        """Close the open stage, if there is one: FINISHED, or FAILED with the error."""
        stage, self._stage = self._stage, None
        if stage is None:
            return
        if error is not None:
            self._log_error(stage.run_id, error)
        self.store.client.set_terminated(stage.run_id, "FINISHED" if error is None else "FAILED")
        self._summary.stages.append(
            StageSummary(stage.name, time.monotonic() - stage.started, stage.record, failed=error is not None)
        )

    def skipped_stage(self, name: str, record: StageRecord, made_by_run: str | None = None) -> None:
        """A stage whose outputs were fresh: its figures again, and a link to the run that made them."""
        self.end_stage()
        link = f"[the run that made it]({self._experiment_page}/{made_by_run})" if made_by_run else "an earlier run"
        tags = {
            **self._child_tags(self.run_id),
            "stage": name,
            "skipped": "true",
            "data": record.data,
            NOTE: f"Nothing to do: {name} is fresh since {link}.\n\n{describe_stage(record)}",
        }
        if made_by_run:
            tags["made_by_run"] = made_by_run
        run_id = self._create(f"{name} (skipped)", tags)
        entries.log(self.store.client, run_id, metrics=entries.metrics_of(record), tags=record.facts)
        self.store.client.set_terminated(run_id)
        datasets = dataset_inputs(record)
        if datasets:
            self.store.client.log_inputs(self.run_id, datasets=datasets)
        self._summary.stages.append(StageSummary(name, 0.0, record, skipped_for=link))

    def end(
        self,
        status: Status = "FINISHED",
        error: str | None = None,
        tags: Mapping[str, Any] | None = None,
        evaluation: Evaluation | None = None,
        promotion: Promotion | None = None,
    ) -> None:
        """Close the run, and a stage that is still open, with the description that a person reads on its page.

        Its name then begins with the outcome: MLflow's list of runs has no other place that says it by default.
        Ending twice does nothing.
        """
        run_id, self._run_id = self._run_id, None
        if run_id is None:
            return
        if evaluation is not None:
            self._log_evaluation(run_id, evaluation)
        if self._stage is not None:
            self.end_stage(error or ("interrupted" if status != "FINISHED" else None))
        if error is not None:
            self._log_error(run_id, error)
        summary = self._summary
        summary.error, summary.status, summary.promotion = error, status, promotion
        promoted = {} if promotion is None else {"promotion": str(promotion)}
        entries.log(self.store.client, run_id, tags={**(tags or {}), **promoted, NOTE: describe_run(summary)})
        if summary.outcome is not None:
            self.store.client.update_run(run_id, name=f"{summary.outcome}: {self._title}")
        self.store.client.set_terminated(run_id, status)

    def _log_evaluation(self, run_id: str, evaluation: Evaluation) -> None:
        """The run's own figures: what a person compares runs by."""
        self._summary.evaluation = evaluation
        tags = {"budget_kept": evaluation.budget_kept, "data": evaluation.data, "test_digest": evaluation.test_digest}
        metrics = [entries.metric(name, value) for name, value in _figures(evaluation).items()]
        entries.log(self.store.client, run_id, metrics=metrics, tags=tags)

    def _open_stage(self) -> _OpenStage:
        if self._stage is None:
            raise RuntimeError("no stage is open")
        return self._stage

    def _create(self, name: str, tags: Mapping[str, str], started: int | None = None) -> str:
        run = self.store.client.create_run(self.store.experiment_id, started, dict(tags), run_name=name)
        return str(run.info.run_id)

    def _child_tags(self, parent: str) -> dict[str, str]:
        return {PARENT: parent, **process_tags(), **_source_tags("pocketpipe")}

    def _log_trial(self, stage_run_id: str, trial: Trial, data: str) -> None:
        client = self.store.client
        ended = int(time.time() * 1000)
        name = f"trial {trial.index} ({trial.origin})"
        run_id = self._create(name, self._child_tags(stage_run_id), ended - int(trial.seconds * 1000))
        figures = {
            "score": trial.score,
            "speedup": trial.speedup,
            "compression": trial.compression,
            "macs": trial.cost.macs,
            "file_bytes": trial.cost.file_bytes,
        }
        predicted = {"flash_bytes": trial.cost.flash_bytes, "peak_ram_bytes": trial.cost.peak_ram_bytes}
        known = {"tuned_score": trial.tuned_score, **predicted}
        figures |= {figure: value for figure, value in known.items() if value is not None}
        entries.log(
            client,
            run_id,
            metrics=[entries.metric(figure, value) for figure, value in figures.items()],
            parameters={"index": str(trial.index), "origin": trial.origin},
            tags={"plan": trial.plan_json, "data": data},
        )
        client.set_terminated(run_id, end_time=ended)

    def _log_error(self, run_id: str, error: str) -> None:
        self.store.client.log_text(run_id, error.rstrip() + "\n", "error.txt")
        entries.log(self.store.client, run_id, tags={"error": last_line(error)})


def _title(pipeline: str, parameters: Mapping[str, Any]) -> str:
    """What the run works on (`digits resnet8`), or its pipeline; short, since MLflow shows some twenty characters."""
    sections = (parameters.get(section) for section in ("task", "network"))
    names = [str(section["name"]) for section in sections if isinstance(section, Mapping) and "name" in section]
    return " ".join(names) or pipeline


def _source_tags(source: str) -> dict[str, str]:
    """What MLflow's column "Source" shows."""
    return {"mlflow.source.name": source, "mlflow.source.type": "LOCAL"}


def _figures(evaluation: Evaluation) -> dict[str, float]:
    costs = {"teacher": evaluation.teacher_cost, "student": evaluation.student_cost}
    figures: dict[str, float] = dict(evaluation.teacher_cost.ratio_to(evaluation.student_cost))
    for owner, cost in costs.items():
        figures |= {f"{owner}_macs": cost.macs, f"{owner}_parameters": cost.parameters}
        figures |= {f"{owner}_file_bytes": cost.file_bytes}
    for subject in evaluation.subjects:
        figures |= subject.figures(evaluation.metric_name)
        if subject.metric is not None:
            figures |= {f"{subject.name}_examples": subject.examples}
    if evaluation.delivered_metric is not None:
        figures |= {f"delivered_{evaluation.metric_name}": evaluation.delivered_metric}
    return figures
