"""Pip's installation report -> a lock file: one `name==version` a line, sorted."""

import json
import sys
from pathlib import Path

report = json.loads(Path(sys.argv[1]).read_text())
# A local version (torch 2.13.0+cpu) names a build of one index; the public version is what all of them have.
pins = {
    entry["metadata"]["name"].lower(): entry["metadata"]["version"].partition("+")[0] for entry in report["install"]
}
pins.pop("pocketpipe", None)
print("# Written by `make lock`. Python 3.11; install with pip.")
print("\n".join(f"{name}=={version}" for name, version in sorted(pins.items())))
