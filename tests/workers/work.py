"""Functions that this room's tests run in other processes."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pocketpipe.errors import UserError


def double(spec: dict[str, Any]) -> dict[str, Any]:
    return {"number": 2 * spec["number"]}


def say(spec: dict[str, Any]) -> dict[str, Any]:
    logging.getLogger("pocketpipe.training").info(spec["words"])
    return {}


def place(spec: dict[str, Any]) -> dict[str, Any]:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "EXTRA")
    return {name: os.environ[name] for name in names}


def fail_in_one(spec: dict[str, Any]) -> dict[str, Any]:
    """Rank 1 ends as the spec says; the others wait for a minute."""
    Path(spec["folder"], f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
    if os.environ["RANK"] != "1":
        time.sleep(60)
    if spec["how"] == "exception":
        raise KeyError("the key")
    if spec["how"] == "user error":
        raise UserError("budget.speedup: 0.5 is below 1")
    print("the last words", flush=True)
    os.kill(os.getpid(), 9)
    return {}


def sleep_with_child(spec: dict[str, Any]) -> dict[str, Any]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(spec["folder"], "pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(60)
    return {}


def die_with_child(spec: dict[str, Any]) -> dict[str, Any]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(spec["folder"], "child").write_text(str(child.pid))
    os.kill(os.getpid(), 9)
    return {}
