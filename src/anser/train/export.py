"""A trained checkpoint → the file that is shipped.

    python -m anser.train.export trained.safetensors -o anser-1.safetensors --precision int8 \\
        --note licence=Apache-2.0
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from anser.rwkv7 import checkpoint


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trained", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--precision", choices=["fp32", "fp16", "int8", "int4"], default="int8")
    parser.add_argument("--note", nargs="*", default=[], metavar="KEY=TEXT", help="more metadata")
    given = parser.parse_args()
    trained = checkpoint.load(given.trained)
    tensors = checkpoint.quantize(trained.tensors, given.precision)
    notes = dict(note.split("=", 1) for note in given.note)
    checkpoint.save(given.output, tensors, trained.metadata | notes)
    sys.stdout.write(f"{given.output}: {given.output.stat().st_size / 2**20:.1f} MiB\n")


if __name__ == "__main__":
    main()
