"""Train on a Ray cluster: `ray job submit --working-dir . -- python jobs/train.py --preset small --data /shared/comments.csv --run-dir s3://...`.

Takes the options of `polarity train`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from polarity.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
