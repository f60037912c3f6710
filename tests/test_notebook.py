"""The notebook in jobs/ runs from its first cell to its last, as a reader would run it."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

NOTEBOOK = Path(__file__).parent.parent / "jobs" / "first_steps.ipynb"


@pytest.mark.slow
def test_the_notebook_goes_from_a_file_to_the_rows_to_label_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells), "the notebook is kept without outputs"
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells, start=1):
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, code cell {number}", "exec"), names)
    assert names["metrics"]["test"]["rows"] > 40 and (tmp_path / "judged" / "metrics.json").is_file()
    assert names["predicted"]["predicted_sentiment" if "sentiment" in names["rows"] else "sentiment"].notna().all()
    assert len(pd.read_csv(tmp_path / "to_label.csv")) == names["chosen"] == 20
    assert names["comment"] in names["rows"]["Comment"].tolist()
