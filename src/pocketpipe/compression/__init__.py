"""Carries steps out on a network, one module a method; the door is `pocketpipe.plan.STEPS`."""
