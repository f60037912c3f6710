"""The doctor finds what would stop a run, and says what to do."""

from pathlib import Path

import pytest

from polarity.ops import doctor
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
    """The tests' own has no dashboard, which is said."""
    found = levels(tmp_path / "runs")
    assert set(found) == {"versions", "resources", "storage", "encoder", "dashboard", "authentication"}
    dashboard = found.pop("dashboard")
    assert dashboard[0] == "warning" and "--include-dashboard" in dashboard[2]
    assert {level for level, *_ in found.values()} == {"ok"}
    assert not list((tmp_path / "runs").iterdir()), "nothing is left on the storage"


def test_each_lack_is_found_with_its_remedy(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    lacking = ["cluster.workers=2", "cluster.cpus_per_worker=7", "model.encoder=/no/such/encoder", f"data.source={tmp_path}/none.csv"]
    found = levels(tmp_path / "file" / "runs", *lacking)
    assert found["storage"][0] == "problem" and "--run-dir" in found["storage"][2]
    assert found["resources"][0] == "warning" and "14 CPUs" in found["resources"][1]
    assert found["encoder"][0] == "problem" and "/no/such/encoder" in found["encoder"][1]
    assert found["data"][0] == "problem" and "none.csv" in found["data"][1] and "every node" in found["data"][2]
    assert found["authentication"][0] == "warning"
    assert all(remedy for level, _, remedy in found.values() if level != "ok"), "every finding has its remedy"


def test_an_encoder_that_the_hub_does_not_give_is_a_problem(ray_cluster: None, tmp_path: Path) -> None:
    found = levels(tmp_path / "runs", "model.encoder=nobody/no-such-encoder")
    assert found["encoder"][0] == "problem" and "the hub does not give it" in found["encoder"][1] and "HF_TOKEN" in found["encoder"][2]


@pytest.mark.parametrize(
    ("address", "mode", "level", "words"),
    [
        ("127.0.0.1:8265", "token", "ok", "port-forward"),
        ("10.0.0.5:8265", "token", "ok", "http://10.0.0.5:8265"),
        ("10.0.0.5:8265", "disabled", "problem", "without a token"),
        ("", "token", "warning", "no job can be submitted"),
    ],
)
def test_who_reaches_the_dashboard(address: str, mode: str, level: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "dashboard_address", lambda: address)
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    found = doctor._dashboard()
    assert found.level == level and words in found.what and (level == "ok" or found.remedy)


def test_a_job_servers_address_cannot_be_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    said: list[str] = []
    assert not doctor.doctor(resolve("small").config, "runs", None, said.append)
    assert "polarity submit --address http://head:8265 doctor" in "\n".join(said)
