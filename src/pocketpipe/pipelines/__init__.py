"""The stages: one Kedro namespace each; pure functions that call the rooms."""
