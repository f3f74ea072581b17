"""One search in its own process: `python resumable.py FOLDER SECONDS_A_TRIAL TUNER`; ends with FOLDER/result.json."""

import json
import sys
import time
from pathlib import Path

from pocketpipe.budget import Budget
from pocketpipe.plan import CompressionPlan
from pocketpipe.search.finalists import choose
from pocketpipe.search.run import search
from pocketpipe.search.settings import SearchSettings
from pocketpipe.search.store import TrialStore, Tried
from pocketpipe.search.trial import Trial
from search.synthetic import Scorer, Widths, chain


def main(folder: Path, pause: float, tuner: str) -> None:
    profile = chain(groups=5)
    scorer = Scorer(profile)

    def slowly(plan: CompressionPlan) -> Tried:
        time.sleep(pause)
        with (folder / "calls").open("a") as file:
            file.write("x")
        return scorer(plan)

    def tune(trial: Trial) -> float:
        time.sleep(pause)
        with (folder / "tunings").open("a") as file:
            file.write("x")
        return trial.score + 0.01 * (trial.index % 3)

    store = TrialStore(folder)
    settings = SearchSettings(tuner=tuner, trials=14, controls=3)
    limits = Budget(speedup=2.5).limits(profile.cost())
    trials = search(profile, limits, [Widths()], slowly, settings, seed=11, store=store)
    choice = choose(trials, tune, count=settings.finalists, store=store)
    result = [trial.model_dump(exclude={"seconds"}) for trial in choice.trials] + [choice.winner.index]
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
