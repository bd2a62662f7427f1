"""What runs on other machines is what `make` runs here."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    found = yaml.safe_load(path.read_text())["jobs"]
    assert isinstance(found, dict)
    return found


def expand(text: str, matrix: dict[str, list[str]]) -> list[str]:
    """Return a command once for each value of the matrix that it names."""
    for name, values in matrix.items():
        word = f"${{{{ matrix.{name} }}}}"
        if word in text:
            return [line for value in values for line in expand(text.replace(word, value), matrix)]
    return [text]


def test_make_help_lists_all_targets() -> None:
    make = (ROOT / "Makefile").read_text()
    phony = re.findall(r"^\.PHONY: (.+)$", make, re.MULTILINE)[0].split()
    shown = re.findall(r"^([a-z-]+):.*## ", make, re.MULTILINE)
    assert set(phony) == set(shown) == TARGETS - {"venv-python"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_only_run_make_targets_that_exist(path: Path) -> None:
    commands = [
        command
        for job in jobs(path).values()
        for step in job["steps"]
        if "run" in step
        for command in expand(step["run"], job.get("strategy", {}).get("matrix", {}))
    ]
    assert commands
    for command in commands:
        program, *words = command.split()
        assert program == "make", command
        targets = [word for word in words if not word.startswith("-") and "=" not in word]
        named = [word for word in targets if word not in ("${{", "}}") and "." not in word]
        assert named, command
        assert set(named) <= TARGETS, command


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_rights_are_stated(path: Path) -> None:
    text = path.read_text()
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    uses = re.findall(r"uses: (\S+)(.*)", text)
    for action, comment in uses:
        assert re.fullmatch(r"[\w-]+/[\w.-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), f"{action} does not say its version"
    for name, job in jobs(path).items():
        assert job["timeout-minutes"] <= 120, name


def test_one_commit_per_action() -> None:
    pins: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for action, commit in re.findall(r"uses: (\S+)@(\S+)", path.read_text()):
            pins.setdefault(action, set()).add(commit)
    assert all(len(commits) == 1 for commits in pins.values()), pins


def test_every_stated_python_is_tested() -> None:
    matrix = jobs(ROOT / ".github" / "workflows" / "ci.yml")["test"]["strategy"]["matrix"]
    stated = [
        line.rpartition(" ")[2]
        for line in PROJECT["classifiers"]
        if re.search(r"Python :: 3\.\d+$", line)
    ]
    assert matrix["python"] == stated
    assert PROJECT["requires-python"] == f">={stated[0]}"
    assert matrix["os"] == ["ubuntu-latest", "macos-latest"]


def test_a_release_runs_what_contributing_says() -> None:
    release = jobs(ROOT / ".github" / "workflows" / "release.yml")
    steps = [step for job in release["publish"]["needs"] for step in release[job]["steps"]]
    run = {step["run"].split()[1] for step in steps if "run" in step}
    said = re.search(r"^2\. `make (.+)`\.$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert said
    assert {"quality", "test", "audit", "dist"} <= set(said[1].split()) <= run
    assert "release-check" in run


@pytest.mark.parametrize("name", ["bug.yml", "feature.yml", "config.yml"])
def test_issue_templates_can_be_read(name: str) -> None:
    template = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / name).read_text())
    if name == "config.yml":
        assert template["contact_links"]
        return
    assert {"name", "description", "body"} <= template.keys()
    fields = template["body"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_bug_reports_ask_for_what_env_prints() -> None:
    assert "`cassle-zoo env`" in (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text()


def test_hooks_refuse_no_file_that_is_here() -> None:
    """`check-added-large-files` looks at what is added, so a new clone would not notice."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks} >= {"ruff-check", "ruff-format", "large-files", "yaml"}
    assert not any(".venv" in hook["entry"] for hook in hooks)


class TestRelease:
    """`make release-check`."""

    @pytest.fixture
    def check(self, tmp_path: Path) -> Path:
        for name in (".ci/release-check", "cassle_zoo/version.py", "CITATION.cff"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
        (tmp_path / "cassle_zoo" / "version.py").write_text('__version__ = "3.2.1"\n')
        citation = (ROOT / "CITATION.cff").read_text()
        citation = re.sub(r"^version: .+$", "version: 3.2.1", citation, flags=re.MULTILINE)
        (tmp_path / "CITATION.cff").write_text(citation)
        (tmp_path / "CHANGELOG.md").write_text("## [3.2.1] - 2030-01-02\n## [3.2.0] - 2029-01-02\n")
        return tmp_path / ".ci" / "release-check"

    def run(self, check: Path, *tag: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, check, *tag], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stderr

    def test_passes_where_all_agree(self, check: Path) -> None:
        assert self.run(check, "v3.2.1") == (0, "")

    @pytest.mark.parametrize("tag", [["v3.2.0"], ["3.2.1"], [""], []])
    def test_refuses_another_tag(self, check: Path, tag: list[str]) -> None:
        status, message = self.run(check, *tag)
        assert status == 1
        assert "3.2.1" in message

    @pytest.mark.parametrize("place", ["cassle_zoo/version.py", "CITATION.cff", "CHANGELOG.md"])
    def test_refuses_a_place_that_was_forgotten(self, check: Path, place: str) -> None:
        path = check.parents[1] / place
        path.write_text(path.read_text().replace("3.2.1", "3.2.0"))
        status, message = self.run(check, "v3.2.1")
        assert status == 1
        assert place in message
        assert "3.2.0" in message


def test_the_versions_agree() -> None:
    version = re.findall(r'= "(.+)"', (ROOT / "cassle_zoo" / "version.py").read_text())
    cited = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert version == cited
    assert f"\n## [{version[0]}]" in (ROOT / "CHANGELOG.md").read_text()
