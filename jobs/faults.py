"""Show what a run survives: `python jobs/faults.py --injections 24 --out table.md`.

Starts a local cluster of its own, trains a tiny model on the SYNTHETIC corpus, and disturbs it; needs two CPUs, and no GPU.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.faults.command import main

if __name__ == "__main__":
    main()
