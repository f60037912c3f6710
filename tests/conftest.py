"""Fixtures that all tests share, and an environment in which no test sees the user's home, hub, caches or Ray cluster."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("shared machines", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("shared machines")

# A shell ignores SIGINT in what it runs in the background, and processes hand that down: tests that press Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Set before anything is imported that reads them at import. The folder's name is short because Ray puts Unix sockets below it,
# whose paths may have 107 bytes: a long TMPDIR would not do.
_SCRATCH = Path(tempfile.mkdtemp(prefix="pol-", dir="/tmp" if Path("/tmp").is_dir() else None))
for _name in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "RAY_TMPDIR"):
    _folder = _SCRATCH / _name.lower()
    _folder.mkdir()
    os.environ[_name] = str(_folder)  # HOME: Ray writes its token there
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # two processes with two threads each slow one another many times over on two cores
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"  # ray.train.report waits for a look of the controller: 2 s by default
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["COLUMNS"] = "110"  # tables are as wide as the terminal: a test must not depend on whose terminal started it
for _name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "PY_COLORS", "CLICOLOR", "CLICOLOR_FORCE"):
    os.environ.pop(_name, None)
for _name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
    os.environ.pop(_name, None)


def pytest_unconfigure() -> None:
    """Remove what the tests left in their home, caches and Ray's folder."""
    shutil.rmtree(_SCRATCH, ignore_errors=True)


NO_RAY = {
    "best/test_best.py", "data/test_shards.py", "evaluate/test_shares.py", "evaluate/test_verdicts_by_simulation.py",
    "predict/test_export.py", "predict/test_soup_ensemble.py", "report/test_card.py", "report/test_run_report.py",
    "test_cli_bad_input.py", "test_cli_predict.py", "test_notebook.py", "train/test_background.py",
    "train/test_bad_steps.py", "train/test_frozen_training.py", "train/test_full_disk.py", "train/test_inside_epoch.py",
    "train/test_object_storage.py", "train/test_points_on_workers.py", "train/test_resume.py", "train/test_resume_workers.py",
    "train/test_trackers.py", "train/test_validate.py", "train/test_workers.py", "tune/test_planted_course.py",
    "tune/test_planted_truth.py", "tune/test_screen_effects.py",
}  # fmt: skip
"""Files whose slow tests start no Ray and time nothing: they run beside the heavy ones. What asks for `ray_cluster` in them is heavy."""


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under `-n 2 --dist loadgroup`: one process takes what is slow and starts Ray, in order as without it; the other studies and the rest.

    More clusters at a time on two cores would wait for each other; a file stays in one process for the sake of its fixtures.
    """
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        file = item.path.relative_to(Path(__file__).parent).as_posix()
        alone = ("slow" in marks and file not in NO_RAY) or "cluster" in marks or "ray_cluster" in getattr(item, "fixturenames", ())
        heavy = "studies" if file.startswith(("tune/", "test_cli_ablate.py")) else "heavy"
        item.add_marker(pytest.mark.xdist_group(heavy if alone else item.nodeid.partition("::")[0]))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray with two CPUs, for the whole session."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
