"""What is packaged, and that the files around the code agree with it."""

import itertools
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist, built from a copy, so that the checkout stays clean."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "ripe", source / "ripe", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--no-isolation", "--quiet", str(source)]
    subprocess.run(command, check=True, cwd=source, capture_output=True)
    [wheel], [sdist] = (source / "dist").glob("*.whl"), (source / "dist").glob("*.tar.gz")
    return wheel, sdist


def test_wheel_and_sdist_hold_every_file_of_the_package(archives: tuple[Path, Path]) -> None:
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "ripe").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {Path(name).suffix for name in expected} >= {
        ".py",
        ".onnx",
        ".safetensors",
        ".jpg",
        ".yaml",
        ".js",
        ".typed",
    }
    with zipfile.ZipFile(archives[0]) as wheel:
        names = set(wheel.namelist())
    assert expected <= names
    assert {name.split("/")[0] for name in names - expected} == {f"ripe_keypoints-{PROJECT['version']}.dist-info"}
    assert {Path(name).name for name in names} >= {"LICENSE", "NOTICE"}
    with tarfile.open(archives[1]) as sdist:
        assert expected <= {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}


def test_the_distribution_without_pytorch_differs_in_name_and_dependencies_only() -> None:
    path = ROOT / "package_tests" / "without_pytorch.py"
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())
    light = tomllib.loads(runpy.run_path(str(path))["described"]((ROOT / "pyproject.toml").read_text()))
    project, own = whole["project"], light["project"]
    assert own.pop("name") == f"{project.pop('name')}-onnx"
    needed = {requirement.partition(">")[0] for requirement in own.pop("dependencies")}
    assert needed == {"filelock", "h5py", "numpy", "onnxruntime", "pillow", "tqdm"}
    del project["dependencies"], project["optional-dependencies"]
    assert light == whole


def test_the_lock_has_a_version_and_hashes_of_all_that_is_declared_but_pytorch() -> None:
    entries = re.findall(r"^([\w.-]+)==([^ ;]+).*?((?:\\\n +--hash=sha256:[0-9a-f]{64} ?)+)", LOCK, flags=re.MULTILINE)
    assert len(entries) == len(re.findall(r"^\w", LOCK, flags=re.MULTILINE))
    locked: dict[str, list[str]] = {}
    for name, version, _ in entries:
        locked.setdefault(canonicalize_name(name), []).append(version)
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    declared = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values(), groups["dev"], groups["docs"]]
    for requirement in map(Requirement, itertools.chain(*declared)):
        versions = locked.get(canonicalize_name(requirement.name), [])
        assert any(map(requirement.specifier.contains, versions)) == (requirement.name != "torch"), requirement
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        assert locked.get(name, [version]) == [version]


def test_the_conda_environment_has_every_extra() -> None:
    environment = yaml.safe_load((ROOT / "conda_env.yml").read_text())
    assert any(item == f"python{PROJECT['requires-python']}" for item in environment["dependencies"])
    [pip] = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert f".[{','.join(sorted(PROJECT['optional-dependencies']))}]" in pip[-1]


def test_the_citation_names_paper_and_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["preferred-citation"]["type"] == "conference-paper"
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


def test_the_changelog_has_the_version() -> None:
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


RELEASED = "# Changelog\n\n## 0.2.0 (2026-11-29)\n\n- New.\n\n## 0.1.0 (unreleased)\n\n- First.\n"


def test_the_notes_of_a_release_are_its_section_of_the_changelog() -> None:
    notes = runpy.run_path(str(ROOT / "package_tests" / "release_notes.py"))["notes"]
    assert notes("v0.2.0", "0.2.0", RELEASED) == "- New."
    with pytest.raises(ValueError, match=r"the tag is v0\.2\.1, and pyproject\.toml has the version 0\.2\.0"):
        notes("v0.2.1", "0.2.0", RELEASED)
    for version in ("0.1.0", "0.2", "0.3.0"):  # without a date, a part of another's, not there
        with pytest.raises(ValueError, match=rf"no section `## {version} \(YYYY-MM-DD\)`, but 0\.2\.0"):
            notes(f"v{version}", version, RELEASED)


def test_workflows_name_actions_by_commit_and_what_is_there() -> None:
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        jobs = yaml.safe_load(path.read_text())["jobs"].values()
        steps = [step for job in jobs for step in job["steps"]]
        for action in filter(None, (step.get("uses") for step in steps)):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
        for command in filter(None, (step.get("run") for step in steps)):
            program, *words = command.split()
            if program == "make":
                assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
            elif program != "gh":
                assert (ROOT / (words[0] if program == "python" else program)).is_file(), command


def test_hooks_run_what_make_lint_runs() -> None:
    [local] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    makefile = (ROOT / "Makefile").read_text()
    for hook in local["hooks"]:
        assert hook["entry"].replace(".venv/bin/", "$(BIN)/") in makefile
