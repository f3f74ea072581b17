"""Registry: the versions of one job's student, which of them is champion, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketpipe.champion import EVALUATION
from pocketpipe.errors import UserError
from pocketpipe.evaluation import Evaluation
from pocketpipe.reporting.numbers import metric_text
from pocketpipe.tracking.entries import key, text
from pocketpipe.tracking.gates import Decision, Promotion
from pocketpipe.tracking.packages import CONTENT, PACKAGE, Packages, content_digest, files_digest, read_evaluation
from pocketpipe.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHAMPION, CHALLENGER = "champion", "challenger"
HISTORY = "champion_history"
LONGEST_HISTORY = 100
"""Versions; a database has 5,000 characters for them."""
FILES = "files_sha256"
"""Of the files alone."""
LONGEST_DESCRIPTION = 5_000
"""Characters that a description has room for where MLflow keeps it in PostgreSQL or MySQL."""
OUTCOME, REASONS = "outcome", "reasons"
ROLLED_BACK = "rolled back"
OVERTAKEN = "the champion became"
"""How the reason begins that another run was quicker: nothing was decided."""


@dataclass(frozen=True)
class Registered:
    """A registered version with its files on this machine."""

    name: str
    version: str
    folder: Path
    evaluation: Evaluation
    run_id: str
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it became what it is."""
        return tuple(self.tags.get(REASONS, "").splitlines())


class Registry:
    """Versions by name. Files of a server's versions are kept in `downloads`; those of a local store stay in place."""

    def __init__(self, store: Store, downloads: Path) -> None:
        self.store = store
        self._packages = Packages(store, downloads)

    def register(self, name: str, folder: Path, evaluation: Evaluation, tags: Mapping[str, Any], run_id: str) -> str:
        """Keep `folder` (ONNX, deliveries, networks, plan) as a new version of `name`, made by `run_id`; the version.

        The same files again are the same version, with the new tags: a run that goes on after a crash does not
        register twice.
        """
        client = self.store.client
        content, files = content_digest(folder, evaluation), files_digest(folder)
        own = {key(tag): text(value) for tag, value in tags.items()}
        with self.store.lock():
            self._ensure(name)
            known = [v for v in client.search_model_versions(f"name = '{name}'") if v.tags.get(CONTENT) == content]
            measured = evaluation.model_dump_json(indent=2) + "\n"
            if known:
                for tag, value in {**own, **_summary_tags(evaluation), FILES: files}.items():
                    client.set_model_version_tag(name, str(known[0].version), tag, value)
                client.log_text(
                    known[0].run_id or run_id, measured, f"{PACKAGE}/{EVALUATION}"
                )  # with the times of this run
                self._packages.forget(known[0])
                return str(known[0].version)
            client.log_artifacts(run_id, str(folder), artifact_path=PACKAGE)
            client.log_text(run_id, measured, f"{PACKAGE}/{EVALUATION}")
            version = client.create_model_version(
                name,
                source=f"{client.get_run(run_id).info.artifact_uri}/{PACKAGE}",
                run_id=run_id,
                tags={**own, **_summary_tags(evaluation), CONTENT: content, FILES: files},
                description=_description(evaluation, "registered, not decided yet", ()),
                await_creation_for=0,
            )
        return str(version.version)

    def champion(self, name: str) -> Registered | None:
        """The champion, its files at hand. Raises UserError if its files are gone."""
        version = self.champion_version(name)
        return None if version is None else self.version(name, version)

    def champion_version(self, name: str) -> str | None:
        """Version of the champion, without fetching files."""
        return self._aliases(name).get(CHAMPION)

    def has(self, promotion: Promotion) -> bool:
        """Whether this store has the version, with these files."""
        known = self.store.client.search_model_versions(f"name = '{promotion.name}'")
        same = [each for each in known if str(each.version) == promotion.version]
        return any(each.tags.get(CONTENT) == promotion.content for each in same)

    def was_rolled_back(self, promotion: Promotion) -> bool:
        """Whether a person has gone back from the version since."""
        return self._get(promotion.name, promotion.version).tags.get(OUTCOME, "").startswith(ROLLED_BACK)

    def as_of_now(self, promotion: Promotion) -> Promotion:
        """A promotion, perhaps of an earlier run: another version may have become champion since."""
        if not promotion.promoted or self.champion_version(promotion.name) == promotion.version:
            return promotion
        return promotion.model_copy(update={"promoted": False, "reasons": ("it was the champion, and is none now",)})

    def version(self, name: str, version: str) -> Registered:
        """One version. Raises UserError if it is unknown, its files are gone or of another form."""
        found = self._get(name, version)
        if CONTENT not in found.tags:  # on a server that others use, too
            raise UserError(f"{name!r} version {version} was not registered by pocketpipe")
        folder = self._packages.folder(found)
        evaluation = read_evaluation(folder / EVALUATION, found)
        return Registered(name, version, folder, evaluation, found.run_id or "", dict(found.tags))

    def settle(self, name: str, version: str, decision: Decision, *, against: str | None) -> Promotion:
        """Carry a decision out: the version becomes champion or challenger, its reasons written on it.

        `against` is the champion's version that the decision was made against. If another run has promoted in the
        meantime, the version becomes challenger: it was not compared with what is champion now. So does a version
        with the files of one that a person has rolled back: only a person brings it back. Repeated after a failure half
        way, the outcome is the same: the alias, which alone counts, is written last.
        """
        with self.store.lock():
            current = self.champion_version(name)
            found = self._get(name, version)
            content = found.tags.get(CONTENT, "")
            if current == version:
                if found.tags.get(OUTCOME) != CHAMPION:  # a person has made it champion on MLflow's page
                    self._retitle(name, version, CHAMPION)
                reasons = ("it is the champion already",)
                return Promotion(name=name, version=version, promoted=True, reasons=reasons, content=content)
            objection = self._objection(found, current, against) if decision.promote else None
            if objection is not None:
                decision = Decision(promote=False, reasons=(objection, *decision.reasons))
            if decision.promote:
                self._crown(name, version, decision.reasons)
            else:
                self._challenge(name, version, decision.reasons)
        return Promotion(
            name=name,
            version=version,
            promoted=decision.promote,
            reasons=decision.reasons,
            content=content,
            against=against,
        )

    def rollback(self, name: str) -> str:
        """Make the champion before the present one champion again; its version. Raises UserError if there is none."""
        with self.store.lock():
            current, history = self.champion_version(name), self.history(name)
            if not history:
                raise self.without_champion(name)
            existing = {str(v.version) for v in self.store.client.search_model_versions(f"name = '{name}'")}
            before = [version for version in history if version != current and version in existing]
            if not before:
                raise UserError(f"{name!r}: version {current} has no champion before it to go back to")
            self._move_back(name, current, before)
        return before[-1]

    def history(self, name: str) -> list[str]:
        """Versions that were champion, oldest first, the present one last; those rolled back are gone from it.

        The alias is what counts: whatever a crash, or a person on MLflow's page, has left different is mended here.
        """
        model = self._model(name)
        if model is None:
            return []
        kept: list[str] = json.loads(model.tags.get(HISTORY, "[]"))
        current = self.champion_version(name)
        if current is None:  # its version was deleted, say
            return kept
        return kept[: kept.index(current) + 1] if current in kept else [*kept, current]

    def names(self) -> list[str]:
        """All registered names, sorted."""
        found: list[str] = []
        token = None
        while True:
            page = self.store.client.search_registered_models(page_token=token)
            found += (model.name for model in page)
            token = page.token
            if not token:
                return sorted(found)

    def without_champion(self, name: str) -> UserError:
        """What is said of a name that has no champion."""
        known = ", ".join(self.names()) or "none yet: run compress first"
        return UserError(f"{name!r} has no champion; names in the registry: {known}")

    def _ensure(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.store.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _objection(self, version: ModelVersion, current: str | None, against: str | None) -> str | None:
        if current != against:
            return f"{OVERTAKEN} version {current} while this was decided; run again"
        known = self.store.client.search_model_versions(f"name = '{version.name}'")
        same = [each for each in known if each.version == version.version or _same_files(each, version)]
        left = [each for each in same if each.tags.get(OUTCOME, "").startswith(ROLLED_BACK)]
        if any(str(each.version) != current for each in left):
            return "the same files were champion and were rolled back; they are not promoted again by themselves"
        return None

    def _crown(self, name: str, version: str, reasons: Sequence[str]) -> None:
        client, aliases = self.store.client, self._aliases(name)
        history = [known for known in self.history(name) if known != version] + [version]
        self._explain(name, version, CHAMPION, reasons)
        before = aliases.get(CHAMPION)
        if before is not None:
            self._retitle(name, before, f"{CHAMPION} until version {version}")
        if aliases.get(CHALLENGER) == version:
            client.delete_registered_model_alias(name, CHALLENGER)
        self._point(name, history)

    def _challenge(self, name: str, version: str, reasons: Sequence[str]) -> None:
        before = self._get(name, version).tags.get(OUTCOME, "")
        self._explain(name, version, before if before.startswith(ROLLED_BACK) else CHALLENGER, reasons)
        self.store.client.set_registered_model_alias(name, CHALLENGER, version)

    def _move_back(self, name: str, left: str | None, history: list[str]) -> None:
        if left is not None:
            self._retitle(name, left, f"{ROLLED_BACK} to version {history[-1]}")
        self._retitle(name, history[-1], CHAMPION)
        self._point(name, history)

    def _point(self, name: str, history: list[str]) -> None:
        """Make the last of `history` the champion."""
        client = self.store.client
        client.set_registered_model_tag(name, HISTORY, json.dumps(history[-LONGEST_HISTORY:]))
        client.set_registered_model_alias(name, CHAMPION, history[-1])

    def _retitle(self, name: str, version: str, outcome: str) -> None:
        """Say what a version is now, and what it was before. Needs none of its files; said already, it stays."""
        client = self.store.client
        title, _, rest = (self._get(name, version).description or "").partition("\n")
        was = title.partition(" (before: ")[0]
        client.set_model_version_tag(name, version, OUTCOME, outcome)
        if was != outcome:
            before = f" (before: {was})" if was else ""
            client.update_model_version(name, version, text(f"{outcome}{before}\n{rest}", LONGEST_DESCRIPTION))

    def _explain(self, name: str, version: str, outcome: str, reasons: Sequence[str]) -> None:
        client = self.store.client
        description = _description(self._packages.evaluation(self._get(name, version)), outcome, reasons)
        client.set_model_version_tag(name, version, OUTCOME, outcome)
        client.set_model_version_tag(name, version, REASONS, text("\n".join(reasons)))
        client.update_model_version(name, version, description)

    def _aliases(self, name: str) -> dict[str, str]:
        model = self._model(name)
        return {} if model is None else {alias: str(version) for alias, version in model.aliases.items()}

    def _model(self, name: str) -> RegisteredModel | None:
        from mlflow.exceptions import MlflowException

        try:
            return self.store.client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no name at all
                raise
            return None

    def _get(self, name: str, version: str) -> ModelVersion:
        from mlflow.exceptions import MlflowException

        try:
            return self.store.client.get_model_version(name, version)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise UserError(f"{name!r} has no version {version} in the registry") from error


def _same_files(one: ModelVersion, other: ModelVersion) -> bool:
    return FILES in one.tags and one.tags[FILES] == other.tags.get(FILES)


def _summary_tags(evaluation: Evaluation) -> dict[str, str]:
    ratios = evaluation.teacher_cost.ratio_to(evaluation.student_cost)
    metric = evaluation.delivered_metric
    return {
        "budget_kept": text(evaluation.budget_kept),
        "test_digest": evaluation.test_digest,
        **{name: f"{value:.3f}" for name, value in ratios.items()},
        **({} if metric is None else {key(evaluation.metric_name): metric_text(metric)}),
    }


def _description(evaluation: Evaluation, outcome: str, reasons: Sequence[str]) -> str:
    """Its first line alone appears in MLflow's table of versions."""
    first, *others = reasons or ("",)
    verdicts = [line for line in map(str, evaluation.verdicts) if line not in reasons]
    lines = [f"{outcome}: {first}" if first else outcome, ""]
    lines += [f"- {line}" for line in (*others, *verdicts)]
    return text("\n".join([*lines, "", f"Measured on {evaluation.data}."]), LONGEST_DESCRIPTION)
