import json
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "conf" / "spark" / "gpu_discovery.sh"


def discover(folder: Path, answer: str | None, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs the script where `nvidia-smi` gives `answer` to the one question that the script may ask."""
    if answer is not None:
        question = "--query-gpu=index --format=csv,noheader"
        fake = folder / "nvidia-smi"
        fake.write_text(f'#!/bin/bash\n[ "$*" = "{question}" ] || exit 9\nprintf "{answer}"\nexit {status}\n')
        fake.chmod(0o755)
    path = os.pathsep.join([str(folder), "/usr/bin", "/bin"])
    return subprocess.run([SCRIPT], capture_output=True, text=True, check=False, env={"PATH": path})


@pytest.mark.parametrize(
    ("answer", "addresses"), [("0\\n", ["0"]), ("0\\n1\\n", ["0", "1"]), ("0\\n1\\n10\\n", ["0", "1", "10"])]
)
def test_gpus_are_printed_as_spark_reads_them(tmp_path: Path, answer: str, addresses: list[str]) -> None:
    done = discover(tmp_path, answer)
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"name": "gpu", "addresses": addresses}
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("answer", ["", "No devices were found\\n", "0\\nUnable to determine the device handle\\n"])
def test_an_answer_that_is_no_list_of_gpus_fails_and_is_quoted(tmp_path: Path, answer: str) -> None:
    done = discover(tmp_path, answer)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"nvidia-smi answered '{answer.removesuffix(chr(92) + 'n')}'".replace("\\n", "\n") in done.stderr


def test_a_failing_nvidia_smi_fails_the_script(tmp_path: Path) -> None:
    done = discover(tmp_path, "0\\n", status=9)
    assert (done.returncode, done.stdout) == (9, "")


@pytest.mark.skipif(Path("/usr/bin/nvidia-smi").exists(), reason="this machine has GPUs")
def test_a_machine_without_nvidia_smi_is_told_what_to_do(tmp_path: Path) -> None:
    done = discover(tmp_path, None)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nvidia-smi is not on PATH; install NVIDIA's driver" in done.stderr
