"""The best model for a file: `ray job submit --working-dir . -- python jobs/best.py /shared/comments.csv --time 2h --run-dir s3://...`.

Takes the options of `polarity best`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from polarity.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "best")
    main()
