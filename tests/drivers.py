"""One of several searches that share a study: run by test_sharing, with a timer that needs no clock.

python drivers.py SPACE NPZ FOLDER URL TRIALS
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from murders import make_timer
from processes import be_brisk

import hybridnas.timing
from hybridnas import SearchConfig, run_search
from hybridnas.proxy.training import Trainer


def main() -> None:
    space, data, folder, url, trials = sys.argv[1:]
    be_brisk()
    hybridnas.timing.Timer = make_timer  # type: ignore[attr-defined, misc, assignment]
    train = Trainer.train

    def slowly(trainer, design, recipe, *, until=None, **named):  # type: ignore[no-untyped-def]
        time.sleep(0.3)
        with (Path(folder) / "trained").open("a") as file:
            file.write(f"{design.key} {until} {recipe.epochs}\n")
        return train(trainer, design, recipe, until=until, **named)

    Trainer.train = slowly  # type: ignore[method-assign]
    run_search(
        SearchConfig(
            space=space,
            data=data,
            epochs=3,
            trials=int(trials),
            threads=1,
            out=Path(folder),
            storage=url,
            study="shared",
            baselines="none",
        )
    )


if __name__ == "__main__":
    main()
