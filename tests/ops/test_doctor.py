"""The doctor finds what would stop a run, and says what to do."""

from pathlib import Path

import pytest

from polarity.ops.doctor import examine, payload
from polarity.resolve import resolve
from tests.train.runs import encoder_folder


def test_the_payload_is_what_ray_would_send(tmp_path: Path) -> None:
    (tmp_path / ".rayignore").write_text("data/\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "comments.csv").write_bytes(b"x" * 3_000_000)
    (tmp_path / "code.py").write_bytes(b"y" * 1000)
    assert payload(tmp_path).level == "ok"
    assert "code.py" in payload(tmp_path).what and "comments.csv" not in payload(tmp_path).what
    (tmp_path / ".rayignore").unlink()
    found = payload(tmp_path, limit_mb=1.0)
    assert found.level == "problem" and "comments.csv" in found.what and ".rayignore" in found.remedy


def levels(storage: Path | str, *sets: str) -> dict[str, tuple[str, str, str]]:
    config = resolve("small", sets=[f"model.encoder={encoder_folder()}", *sets]).config
    return {f.subject: (f.level, f.what, f.remedy) for f in examine(config, str(storage), None)}


def test_a_sound_cluster_has_no_problem(ray_cluster: None, tmp_path: Path) -> None:
    found = levels(tmp_path / "runs")
    assert {level for level, *_ in found.values()} == {"ok"}
    assert set(found) == {"versions", "resources", "storage", "encoder", "authentication"}
    assert not list((tmp_path / "runs").iterdir()), "nothing is left on the storage"


def test_each_lack_is_found_with_its_remedy(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    found = levels(tmp_path / "file" / "runs", "cluster.workers=2", "cluster.cpus_per_worker=7", "model.encoder=/no/such/encoder")
    assert found["storage"][0] == "problem" and "--run-dir" in found["storage"][2]
    assert found["resources"][0] == "warning" and "14 CPUs" in found["resources"][1]
    assert found["encoder"][0] == "problem" and "/no/such/encoder" in found["encoder"][1]
    assert found["authentication"][0] == "warning"
