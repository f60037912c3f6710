"""Run a study on a Ray cluster: `ray job submit --working-dir . -- python jobs/ablate.py --preset small --data /shared/comments.csv ...`.

Takes the options of `polarity ablate`; `--study-dir` must be a folder that every node sees, or a URI.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from polarity.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "ablate")
    main()
