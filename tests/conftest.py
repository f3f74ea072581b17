"""Before any engine is imported: tests share two cores, and tiny networks lose by splitting their work."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
