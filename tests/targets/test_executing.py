"""Programs on files: what they leave, and what becomes of those that take too long."""

import sys

import numpy as np
import pytest

from pocketpipe.errors import NotMeasured
from pocketpipe.targets import executing
from pocketpipe.targets.executing import outputs_in_slices, outputs_of

TWICE = "import numpy as np; (np.fromfile('input.bin', np.int8) * 2).tofile('output.bin')"


def test_examples_come_back_in_order() -> None:
    entering = np.arange(15, dtype=np.int8).reshape(5, 3)
    command = (sys.executable, "-c", TWICE)
    assert np.array_equal(outputs_in_slices(command, entering, np.dtype(np.int8)), 2 * entering.reshape(-1))


def test_one_that_fails_tells_its_last_words() -> None:
    with pytest.raises(RuntimeError, match=r"ended with 1: .*no such luck"):
        outputs_of((sys.executable, "-c", "raise SystemExit('no such luck')"), np.zeros((1, 3)), np.dtype(np.int8))


def test_one_that_takes_too_long_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large network under an emulator must not end a run as a fault, after all training."""
    monkeypatch.setattr(executing, "START", 0.2)
    monkeypatch.setattr(executing, "PATIENCE", 0.05)
    with pytest.raises(NotMeasured, match=r"took longer than 0\.3 s for 2 examples; lower evaluate\.emulated_examples"):
        outputs_of((sys.executable, "-c", "import time; time.sleep(9)"), np.zeros((2, 3)), np.dtype(np.int8))
