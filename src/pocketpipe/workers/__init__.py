"""One way to do work in another process: a spec file in, a result file out."""
