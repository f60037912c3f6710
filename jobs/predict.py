"""Predict on a Ray cluster: `ray job submit --working-dir . -- python jobs/predict.py s3://.../run --data /shared/new.parquet --out ...`.

Takes the options of `polarity predict`; input and output lie where every node sees them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from polarity.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "predict")
    main()
