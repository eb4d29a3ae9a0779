"""Wheel and sdist, built from the checkout and installed into an environment of their own.

Nothing is downloaded: the build back end and the dependencies are those of the environment that
the tests run in.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import tailproxy

ROOT = Path(__file__).parent.parent
SOURCES = ("setup.cfg", "pyproject.toml", "LICENSE", "README.md", "tailproxy", "twisted")
TWISTD = "from twisted.scripts.twistd import run; run()"


def run(*command: object, cwd: Path) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, target: Path) -> Path:
    """Call the build back end as `pip` and `build` do (PEP 517)."""
    target.mkdir()
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(target)!r})"
    run(sys.executable, "-c", code, cwd=source)
    (made,) = target.iterdir()
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what is in the checkout, without what was made from it."""
    copy = tmp_path_factory.mktemp("source")
    made = shutil.ignore_patterns("__pycache__", "dropin.cache", "*.egg-info")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, copy / name, ignore=made)
        elif path.exists():
            shutil.copy(path, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("wheel") / "dist")


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory) -> Path:
    return build("sdist", source, tmp_path_factory.mktemp("sdist") / "dist")


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The interpreter of an environment with the wheel; dependencies are borrowed from ours."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    paths = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    site = Path(paths.strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_has_every_module_and_nothing_that_is_twisteds(wheel, source):
    modules = {
        str(path.relative_to(source))
        for folder in ("tailproxy", "twisted")
        for path in (source / folder).rglob("*.py")
    }
    found = names(wheel)
    assert {name for name in found if name.endswith(".py")} == modules
    assert "tailproxy/py.typed" in found
    data = {
        str(path.relative_to(source))
        for path in (source / "tailproxy").rglob("*")
        if path.is_file() and path.suffix != ".py"
    }
    assert {name for name in found if name.startswith("tailproxy/")} >= data
    assert {name for name in found if name.startswith("twisted/")} == {
        "twisted/plugins/tailproxy_plugin.py"
    }


def test_the_licence_goes_with_it(wheel):
    assert any(name.endswith("/LICENSE") for name in names(wheel))
    assert "tailproxy/sessions/static/asciinema-player.LICENSE" in names(wheel)


def test_the_sdist_makes_the_same_wheel(sdist, wheel, tmp_path):
    shutil.unpack_archive(sdist, tmp_path)
    (folder,) = tmp_path.iterdir()
    again = build("wheel", folder, tmp_path / "dist")
    assert again.name == wheel.name
    assert names(again) == names(wheel)


def test_twistd_lists_tailproxy_in_the_environment_of_the_wheel(python, tmp_path):
    listed = run(python, "-c", TWISTD, "--help", cwd=tmp_path)
    # A set, since the borrowed environment may have tailproxy installed too.
    (line,) = {line for line in listed.splitlines() if line.split()[:1] == ["tailproxy"]}
    assert "Kubernetes API server on a tailnet" in line


def test_the_installed_service_says_its_version(python, tmp_path):
    said = run(python, "-c", TWISTD, "tailproxy", "--version", cwd=tmp_path)
    assert said == f"tailproxy {tailproxy.__version__}\n"
    where = run(python, "-c", "import tailproxy; print(tailproxy.__file__)", cwd=tmp_path)
    assert where.startswith(str(python.parent.parent))


def test_listing_the_plugin_imports_nothing_of_the_service(python, tmp_path):
    code = (
        "import sys\nfrom twisted.application.service import IServiceMaker\n"
        "from twisted.plugin import getPlugins\n"
        "assert 'tailproxy' in [maker.tapname for maker in getPlugins(IServiceMaker)]\n"
        "assert 'tailproxy.tap' not in sys.modules"
    )
    run(python, "-c", code, cwd=tmp_path)
