"""Tuners propose the same for the same seed, and leave global randomness and the file system alone."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pocketpipe.errors import UserError
from pocketpipe.search.settings import SearchSettings
from pocketpipe.search.tuners.base import TUNERS, build_tuner, next_proposal

SPACE = {
    "a": {"_type": "uniform", "_value": [0.1, 1.0]},
    "b": {"_type": "uniform", "_value": [0.1, 1.0]},
    "bits": {"_type": "choice", "_value": [8, 4, 2]},
}
SEEDED = ("evolution", "random", "tpe")


def proposals(name: str, seed: int, count: int = 30) -> list[dict]:
    tuner = build_tuner(name, {}, seed=seed, space=SPACE)
    tuner.import_data([{"parameter": {"a": 0.5, "b": 0.5, "bits": 4}, "value": 0.3}])
    made = []
    for index in range(count):
        made.append(next_proposal(tuner, index))
        tuner.receive_trial_result(index, made[-1], made[-1]["a"] - made[-1]["b"] / made[-1]["bits"])
        tuner.trial_end(index, True)
    return made


def test_known_tuners():
    assert TUNERS.names() == ("evolution", "grid", "random", "tpe")


@pytest.mark.parametrize("name", SEEDED)
def test_same_seed_same_proposals_whatever_the_global_generators_hold(name):
    random.seed(1)
    np.random.seed(1)
    first = proposals(name, seed=7)
    random.seed(2)
    np.random.seed(2)
    assert proposals(name, seed=7) == first
    assert proposals(name, seed=8) != first


@pytest.mark.parametrize("name", SEEDED)
def test_a_seed_may_be_a_time(name):
    assert proposals(name, seed=20250131120000) == proposals(name, seed=20250131120000)


@pytest.mark.parametrize("name", [*SEEDED, "grid"])
def test_global_generators_are_left_as_they_were(name):
    random.seed(5)
    np.random.seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist()
    proposals(name, seed=1, count=12)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


@pytest.mark.parametrize("name", [*SEEDED, "grid"])
def test_proposals_lie_in_the_space(name):
    for proposal in proposals(name, seed=3):
        assert 0.1 <= proposal["a"] <= 1.0
        assert 0.1 <= proposal["b"] <= 1.0
        assert proposal["bits"] in (8, 4, 2)


@pytest.mark.parametrize("name", ["evolution", "tpe"])
def test_learning_tuners_end_near_the_optimum(name):
    """The optimum is a = 1, b = 0.1: the last proposals are better than random ones are on average."""
    late = proposals(name, seed=0, count=60)[-15:]
    gains = [p["a"] - p["b"] / p["bits"] for p in late]
    at_random = [p["a"] - p["b"] / p["bits"] for p in proposals("random", seed=0, count=200)]
    assert np.mean(gains) > np.quantile(at_random, 0.8)


def test_evolution_learns_from_imported_results():
    """With one imported individual far better than all others, mutations descend from it."""
    tuner = build_tuner("evolution", {"population": 2}, seed=0, space=SPACE)
    tuner.import_data([{"parameter": {"a": 0.123, "b": 0.456, "bits": 2}, "value": 100.0}])
    made = []
    for index in range(12):
        made.append(next_proposal(tuner, index))
        tuner.receive_trial_result(index, made[-1], 0.0)
        tuner.trial_end(index, True)
    assert any(p["a"] == 0.123 or p["b"] == 0.456 for p in made)


def test_evolution_goes_on_after_failed_trials():
    tuner = build_tuner("evolution", {"population": 3}, seed=0, space=SPACE)
    for index in range(10):
        assert next_proposal(tuner, index) is not None
        tuner.trial_end(index, False)


def test_a_finite_space_ends():
    tuner = build_tuner("grid", {}, seed=0, space={"bits": {"_type": "choice", "_value": [8, 4]}})
    assert [next_proposal(tuner, index) for index in range(3)] == [{"bits": 8}, {"bits": 4}, None]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"tuner": "tpee"}, "search.tuner: tuner 'tpee' is unknown; did you mean 'tpe'?"),
        ({"tuner": "nowhere.at:all"}, "search.tuner: tuner 'nowhere.at:all': cannot import 'nowhere.at'"),
        ({"tuner": "math:nothing"}, "search.tuner: tuner 'math:nothing': module 'math' has no 'nothing'"),
        ({"tuner_options": {"gama": 1}}, "search.tuner_options.gama: 1 is not an option; options: startup,"),
        ({"tuner_options": {"gamma": "x"}}, "search.tuner_options.gamma: 'x': Input should be a valid number"),
        ({"tuner_options": {"startup": 0}}, "search.tuner_options.startup: 0: Input should be greater than or equal"),
        ({"tuner_options": {"seed": 1}}, "search.tuner_options.seed: 1 is not an option"),
    ],
)
def test_mistakes_are_lines_with_key_paths(settings, line):
    mistakes = SearchSettings(**settings).mistakes(where="search")
    assert len(mistakes) == 1
    assert mistakes[0].startswith(line)


def test_an_object_without_the_form_is_refused():
    with pytest.raises(UserError, match=r"object has no update_search_space, .*form of nni\.tuner\.Tuner"):
        build_tuner("search.own_tuners:formless", {}, seed=0, space=SPACE)


USE_ALL = """
from pocketpipe.search.tuners.base import TUNERS, build_tuner, next_proposal
for name in TUNERS.names():
    tuner = build_tuner(name, {}, seed=0, space={"a": {"_type": "choice", "_value": [1, 2, 3]}})
    for index in range(12):
        parameters = next_proposal(tuner, index)
        if parameters is None:
            break
        tuner.receive_trial_result(index, parameters, 1.0)
        tuner.trial_end(index, True)
"""


def test_nni_prints_nothing_and_writes_nothing(tmp_path: Path):
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    environment = {**os.environ, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", USE_ALL], cwd=here, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.rglob("*")) == list(here.rglob("*")) == []


IMPORT_ALL = """
import sys
import pocketpipe.search.run
from pocketpipe.search.settings import SearchSettings
assert SearchSettings().mistakes(where="search") == []
print("nni" in sys.modules)
"""


def test_nni_is_imported_only_when_used():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
