"""Cron in the foreground."""
