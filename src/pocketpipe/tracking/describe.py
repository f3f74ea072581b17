"""What the command line says of the registry."""

from pocketpipe.errors import UserError
from pocketpipe.reporting.numbers import metric_text
from pocketpipe.tracking.registry import Registered, Registry


def describe_champions(registry: Registry) -> list[str]:
    """A text for each registered model: its champion, or why none can be shown. Raises UserError if there is none."""
    if not registry.names():
        raise UserError("no model is registered yet: run the compress pipeline first")
    return [_champion_or_why_not(registry, name) for name in registry.names()]


def _champion_or_why_not(registry: Registry, name: str) -> str:
    try:
        return describe_champion(registry, name)
    except UserError as error:
        return str(error)


def named_champion(registry: Registry, name: str) -> Registered:
    """The champion of `name`. Raises UserError if there is none."""
    champion = registry.champion(name)
    if champion is None:
        raise registry.without_champion(name)
    return champion


def describe_champion(registry: Registry, name: str) -> str:
    """The champion of `name`: figures, verdicts, data, files, history. Raises UserError if there is none."""
    champion = named_champion(registry, name)
    evaluation = champion.evaluation
    ratios = evaluation.teacher_cost.ratio_to(evaluation.student_cost)
    delivered = evaluation.delivered_metric
    metric = "not measured" if delivered is None else metric_text(delivered)
    return "\n".join(
        [
            f"{name} version {champion.version} is the champion",
            f"  {evaluation.metric_name}: {metric} on {evaluation.data}",
            f"  size: {ratios['speedup']:.2f}x fewer MACs, {ratios['compression']:.2f}x smaller file than the teacher",
            *(f"  {verdict}" for verdict in evaluation.verdicts),
            *(f"  weighed: {reason}" for reason in champion.reasons),
            f"  champions, oldest first: {', '.join(registry.history(name))}",
            f"  test data: {evaluation.test_digest}",
            f"  run: {champion.run_id}",
            f"  files: {champion.folder}",
        ]
    )
