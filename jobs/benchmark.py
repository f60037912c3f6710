"""Measure a cluster node's speed:
`ray job submit --working-dir . --entrypoint-num-gpus 1 -- python jobs/benchmark.py --out /shared/speed.json`.

Takes the options of `polarity benchmark`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from polarity.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "benchmark")
    main()
