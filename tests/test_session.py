"""What a user reads whose machine lacks Java: one line that says what to install. PATH has no package manager, so nothing is."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ("bash", "dirname", "head", "id", "ps", "sed")
INSTALL = "install it (Debian: sudo apt-get install openjdk-17-jre-headless)"
MISSING = f"error: no Java was found (PATH has none, JAVA_HOME is not set), expected Java 17 or newer; {INSTALL}"


@pytest.fixture
def without_java(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH holds a few tools and neither Java nor a package manager."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name in TOOLS:
        (binaries / name).symlink_to(shutil.which(name) or pytest.fail(f"no {name} on this machine"))
    spark = str(find_spec("pyspark").submodule_search_locations[0])
    kept = {name: value for name, value in os.environ.items() if name not in ("JAVA_HOME", "PYSPARK_GATEWAY_PORT")}
    ours = {"SPARK_HOME": spark, "SPARK_CONF_DIR": str(ROOT / "conf/spark"), "PYTHONPATH": str(ROOT)}
    return kept | ours | {"PATH": str(binaries), "PYSPARK_PYTHON": sys.executable}


def lines_of(environment: dict[str, str], *command: str) -> tuple[int, list[str]]:
    """Exit code, and all that is printed."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, timeout=600, check=False, **streams)
    return done.returncode, done.stdout.splitlines()


def test_a_job_without_java_says_what_to_install(without_java: dict[str, str], tmp_path: Path) -> None:
    command = (sys.executable, "jobs/textualise.py", "--set", f"warehouse={tmp_path / 'warehouse'}")
    code, printed = lines_of(without_java, *command)
    assert (code, printed[1:]) == (2, [MISSING])  # after the line that names the config
    assert not (tmp_path / "warehouse").exists()


def test_spark_submit_without_java_says_what_to_install(without_java: dict[str, str]) -> None:
    """By conf/spark/spark-env.sh, which `make setup` puts beside Spark's other settings."""
    spark_submit = f"{without_java['SPARK_HOME']}/bin/spark-submit"
    assert lines_of(without_java, spark_submit, "jobs/textualise.py") == (2, [MISSING])
    elsewhere = MISSING.replace("PATH has none, JAVA_HOME is not set", "JAVA_HOME is /no/such/home")
    assert lines_of(without_java | {"JAVA_HOME": "/no/such/home"}, spark_submit, "jobs/textualise.py") == (2, [elsewhere])


def test_set_up_without_java_says_what_to_install(without_java: dict[str, str]) -> None:
    code, printed = lines_of(without_java, "bash", "conf/setup/check-prerequisites.sh", sys.executable)
    assert (code, printed) == (1, [f"error: Java 17 or newer is needed, 'java' is missing; {INSTALL}, then run make again"])


@pytest.mark.parametrize(
    ("says", "found"),
    [('openjdk version "1.8.0_392"', "1"), ("Unable to locate a Java Runtime.", "missing"), ('openjdk version "17.0.9"', None)],
)
def test_set_up_looks_at_the_java_that_spark_will_take(
    without_java: dict[str, str], tmp_path: Path, says: str, found: str | None
) -> None:
    java = tmp_path / "home/bin/java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/usr/bin/env bash\necho '{says}' >&2\n")
    java.chmod(0o755)
    environment = without_java | {"JAVA_HOME": str(tmp_path / "home")}
    code, printed = lines_of(environment, "bash", "conf/setup/check-prerequisites.sh", sys.executable)
    line = f"error: Java 17 or newer is needed, '{java}' is {found}; {INSTALL}, let JAVA_HOME name it or unset it, then run make again"
    assert (code, printed) == ((1, [line]) if found else (0, []))
