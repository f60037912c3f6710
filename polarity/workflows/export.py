"""`polarity export`: a run as a folder that others use without this package."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from polarity.artifacts import CONFIG, STUDENT
from polarity.errors import DataError, PolarityError, RunError, Say, nearest, nothing
from polarity.predict.exported import About, Exported, check_free, new_folder
from polarity.run import Run

FORMATS = ("hf", "onnx")
_SAMPLE_ROWS = 200


@dataclass(frozen=True)
class Push:
    """Sending an export to a hub: `name` is USER/NAME, to which the task is added where there are several; `dry_run` only says what."""

    name: str
    dry_run: bool = False
    public: bool = False

    def check(self, tasks: list[str]) -> None:
        """Raise RunError for a name that no repository can have."""
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils._validators import validate_repo_id

        for repository in [self.repository(task, tasks) for task in tasks] or [self.name]:
            try:
                validate_repo_id(repository)
            except HFValidationError as error:
                raise RunError(f"--push {self.name}: {repository!r} is no name of a repository: give USER/NAME ({error})") from error

    def repository(self, task: str, tasks: list[str]) -> str:
        """The name of a task's repository."""
        return self.name if len(tasks) < 2 else f"{self.name}-{task}"

    def send(self, out: Path, tasks: list[str], say: Say) -> None:
        """Create the repositories, private unless `public`, and send the folders. Raises RunError for what the hub refuses."""
        import httpx2  # huggingface_hub's own client
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

        for task in tasks:
            repository, files = self.repository(task, tasks), sorted(path for path in (out / task).iterdir() if path.is_file())
            total = sum(path.stat().st_size for path in files) / 1e6
            kept = "public" if self.public else "private"
            say(f"{'would send' if self.dry_run else 'sending'} to {constants.ENDPOINT}/{repository} ({kept}): {total:,.1f} MB")
            for path in files:
                say(f"  {path.name:<28} {path.stat().st_size:>14,} bytes")
            if self.dry_run:
                continue
            try:
                api = HfApi()
                api.create_repo(repository, private=not self.public, exist_ok=True)
                found = api.upload_folder(repo_id=repository, folder_path=out / task, commit_message="Exported by polarity")
            except LocalTokenNotFoundError as error:
                raise RunError("--push: no token of the hub: run `hf auth login`, or set HF_TOKEN") from error
            except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise RunError(f"--push {repository}: the hub did not take it ({reason}); the folder stays in {out / task}") from error
            say(f"sent: {found}")


def export(
    run: str, to: str, out: Path, *, int8: bool = False, raw: bool = False, push: Push | None = None, say: Say = print
) -> About:  # fmt: skip
    """Export a run folder to `out` and return the content of its export.json; `raw` leaves the calibration out.

    `hf` gives a folder a task, and with `push` sends them to the hub.
    Raises RunError: an unknown format, a folder that holds something, no run, int8 without the run's data, an ONNX model that differs,
    a hub that does not take the folders.
    """
    if to not in FORMATS:
        raise RunError(f"--to {to}: {nearest(to, FORMATS)}")
    if int8 and to != "onnx":
        raise RunError("--int8 is for --to onnx")
    if push is not None and to != "hf":
        raise RunError("--push is for --to hf")
    check_free(out)
    opened = Run.open(run)
    if push is not None:
        push.check(list(opened.config.labels) if opened.has(CONFIG) else [])
    if opened.kind == "stack":
        if not opened.has(STUDENT):
            raise RunError(f"{opened.uri}: is a stack of models without a student, and an export is one model: make it with more --time")
        say(f"{run} is a stack; its student is exported, one model that was trained on what the stack says")
        opened = Run.open(opened.folder.inside(STUDENT))
    if to == "onnx":
        return _onnx(opened, out, int8=int8, raw=raw, say=say)
    about = _hf(opened, out, raw=raw, say=say)
    if push is not None:
        push.send(out, list(about["labels"]), say)
    return about


def _hf(run: Run, out: Path, *, raw: bool, say: Say) -> About:
    from polarity.predict.export_hf import export_hf
    from polarity.report.card import render_card
    from polarity.report.page import ReportError
    from polarity.report.record import read_record

    exported = Exported.load(run, raw=raw)
    try:
        record = read_record(run.folder)
    except (RunError, ReportError) as error:
        record = None
        say(f"the cards will have no scores: {error}")

    def card(task: str, usage: str) -> str:
        return f"# {run.name}: {task}\n\n{usage}\n" if record is None else render_card(record, task, usage)

    with new_folder(out) as temporary:
        about = export_hf(exported, temporary, card)
    for task, kind in about["models"].items():
        trust = "trust_remote_code=True" if kind.endswith(".py") else "truncation=True"
        say(f'written: {out / task}. To load it: pipeline("text-classification", "{out / task}", {trust})')
    return about


def _onnx(run: Run, out: Path, *, int8: bool, raw: bool, say: Say) -> About:
    from polarity.data.sample import sample_comments
    from polarity.predict.export_onnx import CHECKED_ROWS, MODEL_INT8, CheckRows, check_installed, export_onnx

    check_installed()
    exported = Exported.load(run, raw=raw)
    validation = _validation_rows(run, int8, say)
    texts, source = (
        (sample_comments(_SAMPLE_ROWS), "synthetic sample corpus") if validation is None else (validation, "validation rows of the run")
    )
    step = max(1, -(-texts.num_rows // CHECKED_ROWS))  # from the whole of the table
    rows = CheckRows(texts.take(pa.array(range(0, texts.num_rows, step))), source, validation if int8 else None)
    if rows.validation is not None:
        say(f"the float32 and the int8 model will both score {rows.validation.num_rows:,} validation rows: some minutes on a small machine")
    with new_folder(out) as temporary:
        about = export_onnx(exported, temporary, rows, resamples=exported.config.train.resamples)
    check = about["check"]
    say(f"torch and onnxruntime agree within {check['largest_logit_difference']:.1g} on {check['texts']} texts ({source})")
    differ = {task: count for task, count in check["other_label_than_run"].items() if count}
    if differ:
        say(f"of these, other labels than the run's own: {', '.join(f'{count} of {task}' for task, count in differ.items())}")
    for line in about["not_carried"]:
        say(f"not carried: {line}")
    if int8:
        overall = about["int8"]["overall"]
        low, high = (100 * x for x in overall["ci95"])
        say(
            f"{MODEL_INT8}: {100 * overall['int8']:.1f} % overall macro-F1 on {about['int8']['rows']:,} validation rows, "
            f"{100 * overall['difference']:+.1f} points [{low:+.1f}, {high:+.1f}] against float32: {overall['verdict']}"
        )
    say(f"exported for ONNX: {out} (README.md says how to use it)")
    return about


def _validation_rows(run: Run, int8: bool, say: Say) -> pa.Table | None:
    """The run's validation rows; None, and said, where they cannot be read and int8 does not need them."""
    from polarity.workflows.members import read_again

    try:
        return read_again(run, nothing).validation
    except PolarityError as error:
        if int8:
            raise RunError(
                f"--int8 reports what it costs on the run's validation rows, and these cannot be used: {error}. "
                "Make the data available as the run's config.yaml names it, or leave --int8 out"
            ) from error
        if not isinstance(error, DataError | RunError):
            raise
        say(f"the run's validation rows cannot be used ({error}); the check against torch takes the synthetic sample corpus")
        return None
