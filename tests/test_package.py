"""The distribution: what is packaged, what importing costs, and which layer may know which."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import dedent

import pytest

import agentkit

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(code: str) -> str:
    """What a fresh interpreter in the checkout prints."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


def test_every_package_folder_is_listed_for_the_build() -> None:
    setuptools = SETTINGS["tool"]["setuptools"]
    found = set()
    for name, folder in setuptools["package-dir"].items():
        # The links agentkit/envs and so on lead to folders that have their own entry.
        for file in (ROOT / folder).rglob("__init__.py"):
            inside = file.parent.relative_to(ROOT / folder).parts
            if not (name == "agentkit" and inside and (ROOT / "agentkit" / inside[0]).is_symlink()):
                found.add(".".join((name, *inside)))
    assert found == set(setuptools["packages"])


@pytest.mark.parametrize("name", ["envs", "memory", "training"])
def test_a_mapped_folder_refuses_to_be_imported_by_its_own_name(name: str) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\ntry: import {name}\nexcept ImportError as error: print(error)"
    )
    assert run(code) == f"import 'agentkit.{name}', not '{name}'"


@pytest.mark.parametrize("name", ["envs", "memory", "training"])
def test_the_links_in_the_package_are_relative(name: str) -> None:
    link = ROOT / "agentkit" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"


def test_importing_the_package_is_light() -> None:
    code = """
        import sys, time
        begun = time.perf_counter()
        import agentkit
        spent = time.perf_counter() - begun
        heavy = {"torch", "langgraph", "chromadb", "transformers", "openai", "numpy", "pydantic", "sqlalchemy"}
        print(spent < 0.3, sorted(heavy & set(sys.modules)))
    """
    assert run("\n".join(line.strip() for line in code.splitlines())) == "True []"


@pytest.mark.parametrize("name", [*agentkit.__all__])
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(agentkit, name) is not None
    assert name in dir(agentkit)


@pytest.mark.parametrize("name", ["agentkit", "agentkit.envs", "agentkit.memory", "agentkit.training"])
def test_no_public_name_is_that_of_a_module_beside_it(name: str) -> None:
    """Importing the module would put it in the place of what the package gives by that name."""
    package = importlib.import_module(name)
    assert not {module.name for module in pkgutil.iter_modules(package.__path__)} & set(package.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Trainr'"):
        _ = agentkit.Trainr


def test_knowledge_only_flows_down() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_package_of_an_extra_that_is_missing_is_named_with_its_extra() -> None:
    code = """
        import sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "torch":
                    raise ModuleNotFoundError(name="torch")
        sys.meta_path.insert(0, Absent())
        try:
            from agentkit import Trainer
        except ImportError as error:
            print(error)
    """
    assert run(dedent(code)) == "'torch' is not installed; run: pip install 'agentkit-rl[train]'"
