"""The only room that knows MLflow: stage runs, registry, gates."""
