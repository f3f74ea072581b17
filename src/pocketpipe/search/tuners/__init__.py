"""Tuners, one file each; every one is an object in the form of `nni.tuner.Tuner`."""
