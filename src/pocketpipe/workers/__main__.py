"""A worker process: `python -m pocketpipe.workers package.module:function SPEC RESULT` (torchrun may start it too).

RESULT may hold `{rank}`, which is replaced by the environment's RANK, so that one command serves all ranks.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
import os
import signal
import sys
import traceback
from pathlib import Path

from pocketpipe.errors import UserError
from pocketpipe.storage import write_json
from pocketpipe.workers.process import PARENT_VARIABLE


def main(function: str, spec_file: str, result_file: str) -> int:
    """Run the function on the spec and write {"result": ...} or {"error": ..., "kind": its class}; the exit code says
    which."""
    _die_with_parent()
    target = Path(result_file.format(rank=os.environ.get("RANK", "0")))
    try:
        module_name, _, attribute = function.partition(":")
        work = getattr(importlib.import_module(module_name), attribute)
        outcome = {"result": work(json.loads(Path(spec_file).read_text()))}
    except Exception as error:
        traceback.print_exc()
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        outcome = {"error": message, "kind": type(error).__name__}
    write_json(target, outcome)
    return 1 if "error" in outcome else 0


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it ends, however that ends."""
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    set_death_signal = 1  # PR_SET_PDEATHSIG, <linux/prctl.h>
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before we asked
        sys.exit(1)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(f"usage: python -m pocketpipe.workers package.module:function SPEC RESULT, got {sys.argv[1:]}")
    logging.basicConfig(format="%(message)s")  # into the log that this process's parent, or torchrun, keeps
    logging.getLogger("pocketpipe").setLevel(logging.INFO)
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # The outcome is on disk. A process group that is torn down while its peers are still leaving can abort the
    # interpreter's own exit, and turn a finished rank into a dead one.
    os._exit(code)
