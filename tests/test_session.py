"""What a user reads whose machine lacks Java."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def without_java(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH holds Python and a few plain tools, and no Java."""
    for tool in ("bash", "id", "sed", "head", "dirname", "env"):
        found = next(Path(folder) / tool for folder in os.environ["PATH"].split(":") if (Path(folder) / tool).exists())
        (tmp_path / tool).symlink_to(found)
    kept = {name: value for name, value in os.environ.items() if name not in ("JAVA_HOME", "PATH", "PYSPARK_GATEWAY_PORT")}
    return kept | {"PATH": str(tmp_path)}


def test_a_job_without_java_says_what_to_install(tmp_path: Path) -> None:
    given = ("--set", f"warehouse={tmp_path / 'warehouse'}")
    ended = subprocess.run(
        [sys.executable, "jobs/textualise.py", *given],
        cwd=ROOT,
        env=without_java(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "error: no Java was found (PATH has none, JAVA_HOME is not set), expected Java 17 or newer; install it"
    )
    assert not (tmp_path / "warehouse").exists()


def test_set_up_without_java_and_without_root_says_what_to_install(tmp_path: Path) -> None:
    environment = without_java(tmp_path)
    (tmp_path / "id").unlink()
    (tmp_path / "id").write_text("#!/bin/bash\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    ended = subprocess.run(
        ["bash", "conf/setup/check-prerequisites.sh", sys.executable],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: Java 17 or newer is needed and was not found; install it")
