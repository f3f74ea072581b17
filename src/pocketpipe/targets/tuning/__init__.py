"""Schedules by measuring: candidates beside the rule's kernel, on this host, in turns; kept in a file of records."""
