"""`python jobs/faults.py`: the command around the matrix."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from polarity.errors import PolarityError
from tests.faults.matrix import HEADER, OWN_MOUNTS, Size, line, plan, run_matrix

_UNSHARE = ["unshare", "-rm"]


def faults(
    injections: Annotated[int, typer.Option(min=1, help="How many faults to inject, in turn.")] = 24,
    seed: Annotated[int, typer.Option(help="Of the order and the moments.")] = 0,
    only: Annotated[list[str] | None, typer.Option(help="A fault's name in the table. Repeatable; default: all.")] = None,
    epochs: Annotated[int, typer.Option(min=2, help="Of the small training.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Write the table to this file.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Copy the runs' logs into this folder.")] = None,
) -> None:
    """Inject faults into a small training on a local cluster of two nodes; exits with 1 where a promise is broken.

    It needs two CPUs and takes about a minute an injection.
    """
    order = plan(injections, seed, only or [])
    _with_own_mounts()
    place = Path(tempfile.mkdtemp(prefix="pf-", dir="/tmp" if Path("/tmp").is_dir() else None))
    try:
        rows = run_matrix(place, order, seed, lambda text: print(text, flush=True), Size(epochs=epochs))
    finally:
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            for log in place.glob("*.log"):
                shutil.copy(log, keep)
        subprocess.run(["umount", str(place / "disk")], capture_output=True, check=False)
        shutil.rmtree(place, ignore_errors=True)
    broken = [row for row in rows if not row.kept]
    text = "\n".join([HEADER, *map(line, rows)])
    print(f"\n{text}\n\n{len(rows)} faults injected, {len(broken)} promises broken")
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    if broken or not rows:
        raise typer.Exit(1)


def _with_own_mounts() -> None:
    """Begin again in name spaces of its own, where that is allowed, so that a small disk can be mounted."""
    if OWN_MOUNTS in os.environ or shutil.which("unshare") is None:
        return
    if subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False).returncode == 0:
        os.environ[OWN_MOUNTS] = "1"
        os.execvp(_UNSHARE[0], [*_UNSHARE, sys.executable, *sys.argv])


def main() -> None:
    """The command; a user's mistake ends with its message and status 2."""
    try:
        typer.run(faults)
    except PolarityError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
