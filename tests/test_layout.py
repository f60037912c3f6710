"""The repository itself: sizes, paths, versions, and a README whose commands exist."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import polarity
from polarity.cli import app, examples, setup
from polarity.errors import PolarityError
from polarity.ops.submit import DOCTOR, JOBS
from polarity.resolve import parse_config, preset_names, resolve

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = ("README.md", "polarity/SECURITY.md", "polarity/REFERENCE.md", "jobs/README.md")
"""The pages for users. Each of their commands, configurations and links is tried here."""
MOST_LINES = 600
PLACES = re.compile("|".join([r"(?<![\w.])/" + "work/", "/tmp/" + "venv", r"\.lib" + "rary/", "/ro" + "ot/", r"/ho" + r"me/[a-z]"]))
"""Where somebody's machine keeps things; put together here, so that this file does not hold them."""
SUBSTITUTED = {"NAME": "sample:50", "..": "..."}


def _files() -> list[Path]:
    """The files of the repository, or of its copy without git history."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def _blocks(language: str) -> list[str]:
    """All blocks of a language on the pages for users."""
    texts = [(ROOT / page).read_text("utf-8") for page in PAGES]
    return [block for text in texts for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


def _commands() -> list[list[str]]:
    """The arguments of `polarity` in every shell block and every `--help`; `python jobs/X.py` counts as `polarity X`."""
    found = []
    shown = [command.callback.__doc__ or "" for command in (*app.registered_commands, *setup.app.registered_commands) if command.callback]
    for block in [*_blocks("bash"), *("\n".join(examples(words)) for words in shown)]:
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|\||[|;]", line):
                words = shlex.split(part, comments=True)
                if words and words[0] == "polarity":
                    found.append(words[1:])
                for index, word in enumerate(words):
                    if job := re.fullmatch(r"jobs/(\w+)\.py", word):
                        found.append([job[1], *words[index + 1 :]])
    return found


def test_files_can_be_read_in_a_sitting() -> None:
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in _files() if path.suffix == ".py"}
    assert not {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > MOST_LINES}


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    found = []
    for path in _files():
        text = path.read_bytes().decode("utf-8", "replace")
        found += [f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, hit.start()) + 1}: {hit[0]}" for hit in PLACES.finditer(text)]
    assert not found


def test_the_package_has_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert project["version"] == citation["version"] == polarity.__version__
    assert project["license"] == citation["license"] == "Apache-2.0"


def _leaf(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the words after its name."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands"):
        assert rest, f"polarity {shlex.join(words)}: no command"
        assert rest[0] in command.commands, f"polarity {shlex.join(words)}: {rest[0]!r} is no command; there are {sorted(command.commands)}"
        command = command.commands[rest.pop(0)]
    return command, rest


def _arguments(command: Any, words: list[str]) -> Iterator[tuple[str, str | None]]:
    """(option, value) of each option in the words, ("", word) for each other word."""
    options = {name: option for option in command.params for name in (*option.opts, *option.secondary_opts) if name.startswith("-")}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if not name.startswith("-"):
            yield "", word
            continue
        assert name in options or name == "--help", f"{command.name} has no option {name}; it has {sorted(options)}"
        takes_value = name in options and not options[name].is_flag
        if takes_value and not equals:
            value = next(rest, "")
            assert value, f"{command.name} {name} needs a value"
        yield name, value if takes_value else None


@pytest.mark.parametrize("words", _commands(), ids=shlex.join)
def test_a_command_of_the_pages_and_of_help_exists(words: list[str]) -> None:
    command, rest = _leaf(words)
    if command.name == "submit":  # what follows the job's name is a command of its own
        job = next(index for index, word in enumerate(rest) if word in (*JOBS, DOCTOR))
        test_a_command_of_the_pages_and_of_help_exists(rest[job:])
        rest = rest[: job + 1]
    places = [option.nargs for option in command.params if option.param_type_name == "argument"]
    given = list(_arguments(command, rest))
    assert -1 in places or sum(1 for name, _ in given if not name) <= len(places)
    for name, value in given:
        if name == "--preset":
            assert value in preset_names()
    sets = [str(value) for name, value in given if name == "--set"]
    preset = next((value for name, value in given if name == "--preset"), None)
    resolve(preset, sets=sets)


def test_the_readme_has_commands() -> None:
    assert ["train", "--preset", "quickstart"] in _commands()
    assert "<!-- ci:quickstart -->\n```bash\n" in README
    assert "<!-- ci:test -->\n```bash\n" in README


def test_configurations_of_the_readme_are_valid(tmp_path: Path) -> None:
    blocks = _blocks("yaml")
    assert blocks
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block, "utf-8")
        resolve(None, path)


def test_the_reference_names_every_preset() -> None:
    reference = (ROOT / "polarity/REFERENCE.md").read_text("utf-8")
    assert not [name for name in preset_names() if f"`{name}`" not in reference]


def test_links_of_the_pages_lead_to_files() -> None:
    for page in PAGES:
        targets = [
            target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text("utf-8")) if "://" not in target
        ]
        assert not [target for target in targets if target and not (ROOT / page).parent.joinpath(target).exists()], page


def test_pictures_of_the_readme_are_there_and_small() -> None:
    pictures = [ROOT / name for name in re.findall(r'(?:src|srcset)="([^"]+)"', README)]
    assert pictures and all(path.is_file() and path.stat().st_size < 150_000 for path in pictures)


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1000


def test_an_unknown_key_in_a_configuration_is_refused() -> None:
    with pytest.raises(PolarityError, match="lr"):
        parse_config("optim: {lrr: 1.0}\n", "x.yaml")


def test_tests_of_a_group_run_in_one_process(request: pytest.FixtureRequest) -> None:
    """pytest-xdist tells groups by a suffix of the test's id, which not every pytest lets it set; then two tests start Ray side by side."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("not under -n 2 --dist loadgroup")
    assert request.node.nodeid.endswith("@tests/test_layout.py")
