"""A module whose `build` is no factory."""

build = 3
