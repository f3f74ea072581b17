"""Tasks that come with pocketpipe, one file each; the door is `pocketpipe.task.TASKS`."""
