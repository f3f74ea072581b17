"""docs/search.md is true: its tuner runs, its defaults are the code's."""

import inspect
import re
import sys
from pathlib import Path

import pytest

from pocketpipe.budget import Budget
from pocketpipe.search.run import search
from pocketpipe.search.settings import SearchSettings
from pocketpipe.search.store import TrialStore
from pocketpipe.search.tuners.base import TUNERS
from search.synthetic import Scorer, Widths, chain

PAGE = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")


def test_the_tuner_of_the_page_is_found_by_name_and_improves_on_uniform(tmp_path, monkeypatch):
    (tmp_path / "tuner_of_the_page.py").write_text(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL).group(1))
    monkeypatch.syspath_prepend(tmp_path)
    settings = SearchSettings(tuner="tuner_of_the_page:build", tuner_options={"spread": 0.2}, controls=0, ladder=())
    assert settings.mistakes(where="search") == []
    profile = chain(groups=6)
    limits = Budget(speedup=3).limits(profile.cost())
    trials = search(profile, limits, [Widths()], Scorer(profile), settings, seed=0, store=TrialStore(tmp_path))
    assert max(trial.score for trial in trials) > trials[0].score + 0.01
    sys.modules.pop("tuner_of_the_page")


@pytest.mark.parametrize(("key", "field"), SearchSettings.model_fields.items())
def test_every_setting_is_on_the_page_with_its_default(key, field):
    default = {"tuner_options": "{}", "ladder": "[0.25, 0.5, 0.75]"}.get(
        key, str(field.get_default(call_default_factory=True))
    )
    row = re.search(rf"^\| `{key}` \| `?(.*?)`? \|", PAGE.split("## Settings")[1], re.MULTILINE)
    assert row is not None
    assert row.group(1) == default


@pytest.mark.parametrize("name", TUNERS.names())
def test_every_tuner_is_on_the_page_with_its_options(name):
    options = [p for p in inspect.signature(TUNERS.resolve(name)).parameters.values() if p.kind is p.KEYWORD_ONLY]
    told = ", ".join(f"`{option.name}` ({option.default})" for option in options) or "none"
    assert f"| `{name}` | {told} |" in PAGE
