"""How long the command line takes to start, beside what Python and numpy take, in turn.

python benchmarks/start.py --rounds 15
"""

import argparse
import statistics
import subprocess
import sys
import time

WORDS = {
    "python": ["-c", "pass"],
    "import numpy": ["-c", "import numpy"],
    "import anser": ["-c", "import anser"],
    "anser --help": ["-m", "anser", "--help"],
    "anser infill --help": ["-m", "anser", "infill", "--help"],
}


def seconds(words: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    times: dict[str, list[float]] = {what: [] for what in WORDS}
    for _ in range(given.rounds):
        for what, words in WORDS.items():
            times[what].append(seconds(words))
    for what, found in times.items():
        print(f"{what:20} median {statistics.median(found):.3f} s, best {min(found):.3f} s")


if __name__ == "__main__":
    main()
