"""A user's own package: a task, networks, a step and targets that pocketpipe has never heard of."""
