"""The only room that knows TVM; the door is `pocketpipe.targets.base.TARGETS`."""
