"""Judge a run: `ray job submit --working-dir . -- python jobs/evaluate.py s3://.../run --data /shared/new.csv --out s3://...`.

Takes the options of `polarity evaluate`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from polarity.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    main()
