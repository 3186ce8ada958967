"""Every sampler, several seeds, the same evaluator and the same number of evaluations.

    python -m benchmarks.samplers --data DIR --work /tmp/samplers

DIR holds wikitext2/valid.txt. Studies are kept under --work: an interrupted benchmark goes on there.
Writes benchmarks/results/DEVICE-DATE-samplers-KEEP.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.host import cpu, write_result
from benchmarks.samplers.contest import DETERMINISTIC, Contest, Outcome
from benchmarks.samplers.learning import learning_curves
from secateur.search.samplers.registry import PAPER, SAMPLERS


def main() -> None:
    arguments = _arguments()
    contest = Contest(arguments.data / "wikitext2/valid.txt", arguments.keep, arguments.work)
    outcomes = []
    for seed in arguments.seeds:
        for name in arguments.samplers:
            if seed == arguments.seeds[0] or name not in DETERMINISTIC:
                outcomes.append(contest.play(name, seed, arguments.evaluations))
                print(_line(outcomes[-1]), flush=True)
    result = {
        "device": cpu(),
        "protocol": contest.protocol,
        "keep": arguments.keep,
        "evaluations": arguments.evaluations,
        "samplers": {
            name: [o.to_json() for o in outcomes if o.sampler == name] for name in arguments.samplers
        },
        "learning": learning_curves(contest, arguments.seeds),
    }
    print(write_result(f"samplers-{arguments.keep:g}", result))


def _line(outcome: Outcome) -> str:
    best = outcome.best[-1]
    searched = "nothing fits" if best is None else f"KL {best:.4f} on search windows"
    unseen = f", {outcome.unseen_kl:.4f} on unseen ones" if outcome.unseen_kl else ""
    return f"{outcome.sampler:9} seed {outcome.seed}: {searched}{unseen}, {outcome.seconds:.0f} s"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--keep", type=float, default=0.8)
    parser.add_argument("--evaluations", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    # The paper's is a recipe with 525 pairs of its own: benchmarks.paper.
    names = [name for name in SAMPLERS if name != PAPER]
    parser.add_argument("--samplers", nargs="+", choices=names, default=names)
    arguments: Any = parser.parse_args()
    return arguments  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
