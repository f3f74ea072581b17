"""One way to do work in another process: spec file in, result file out."""
