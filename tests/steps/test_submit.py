"""Jobs as their users start them: the literal spark-submit, another master, a driver that is killed."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytestmark = [pytest.mark.spark, pytest.mark.slow]
ROOT = Path(__file__).parent.parent.parent
# a job of a few rows ends before compiled code pays
JAVA = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:+UseSerialGC -XX:+UseTransparentHugePages"
HANGS = 1_200  # seconds after which something never ends: a busy machine took 400 for what takes 30 on an idle one


def environment() -> dict[str, str]:
    locations = find_spec("pyspark").submodule_search_locations
    binaries = Path(sys.executable).parent
    return os.environ | {
        "SPARK_HOME": str(locations[0]),
        "PYSPARK_PYTHON": sys.executable,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "JAVA_TOOL_OPTIONS": JAVA,
    }


def submit(folder: Path, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs spark-submit in a working directory that has conf/ and jobs/, as a clone has; all it prints is in `stdout`.

    (spark-submit hands on its Python's standard error as standard output.)
    """
    for name in ("conf", "jobs", "examples"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    command = ["spark-submit", *before, *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=HANGS,
        check=False,
    )


SETTINGS = "domain: ecommerce\nwarehouse: warehouse\n"


@pytest.fixture
def workplace(clicks, tmp_path: Path) -> Path:
    """A working directory whose conf names the click example, its texts not encoded yet."""
    import shutil

    (tmp_path / "conf").mkdir()
    for entry in (ROOT / "conf").iterdir():
        if entry.name != "pipeline.yaml":
            (tmp_path / "conf" / entry.name).symlink_to(entry)
    (tmp_path / "conf/pipeline.yaml").write_text(SETTINGS + "encoder: {backend: openvino, precision: fp32}\n", encoding="utf-8")
    for table in ("texts", "items", "events", "user_sequences"):
        shutil.copytree(clicks.warehouse.path(table), tmp_path / "warehouse/ecommerce" / table)
    return tmp_path


def embeddings(folder: Path) -> pl.DataFrame:
    return pl.read_delta(str(folder / "warehouse/ecommerce/text_embeddings"))


def test_the_literal_command_chooses_how_to_encode_and_says_so(workplace: Path, clicks) -> None:
    (workplace / "conf/pipeline.yaml").write_text(SETTINGS, encoding="utf-8")
    done = submit(workplace, "jobs/encode.py")
    assert done.returncode == 0, done.stdout
    found = embeddings(workplace)
    (encoder,) = pl.read_delta(str(workplace / "warehouse/ecommerce/encoders")).to_dicts()
    assert found["encoder_id"].unique().to_list() == [encoder["encoder_id"]]
    fastest = max(encoder["trials"], key=lambda trial: trial["tokens_per_second"] * (trial["cosine"] >= 0.9999))
    assert (encoder["backend"], encoder["precision"]) == (fastest["backend"], fastest["precision"])
    assert f"backend {encoder['backend']} in {encoder['precision']}, the fastest of torch fp32 (" in done.stdout
    fp32 = pl.read_delta(clicks.warehouse.path("text_embeddings"))
    both = found.join(fp32, on="text_hash")
    cosines = (np.stack(both["embedding"].to_list()) * np.stack(both["embedding_right"].to_list())).sum(axis=1)
    assert cosines.min() > 0.9999
    assert set(found["text_hash"]) == set(pl.read_delta(clicks.warehouse.path("texts"))["text_hash"])
    assert f"texts_encoded {found.height:,}" in done.stdout
    assert "Traceback" not in done.stdout
    assert "WARN " not in done.stdout


def test_two_executor_processes_give_the_same_vectors(workplace: Path, clicks) -> None:
    memory = ("--conf", "spark.executor.memory=1g")
    done = submit(workplace, "jobs/encode.py", before=("--master", "local-cluster[2,1,1024]", *memory))
    assert done.returncode == 0, done.stdout
    mine = embeddings(workplace).sort("text_hash")
    theirs = pl.read_delta(clicks.warehouse.path("text_embeddings")).sort("text_hash")
    assert mine["encoder_id"].unique().to_list() == theirs["encoder_id"].unique().to_list()
    apart = (mine["embedding"].explode() - theirs["embedding"].explode()).abs().max()
    assert apart < 1e-5


def test_a_mistake_gets_one_line_and_a_code(workplace: Path) -> None:
    done = submit(workplace, "jobs/encode.py", "--set", "encoder.source=package:no_such_model")
    assert done.returncode == 2
    lines = [line for line in done.stdout.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "no_such_model" in lines[0]
    assert "Traceback" not in done.stdout


def test_a_killed_driver_leaves_nothing_half_written(workplace: Path) -> None:
    """kill -9 while the executors encode: proven reached by the line that ends the stage before."""
    for name in ("jobs", "examples"):
        (workplace / name).symlink_to(ROOT / name)
    log = (workplace / "killed.log").open("w")
    process = subprocess.Popen(
        ["spark-submit", "jobs/encode.py"], cwd=workplace, env=environment(), stderr=log, stdout=log, start_new_session=True
    )
    deadline = time.monotonic() + HANGS
    while "encode: tokenise," not in (workplace / "killed.log").read_text():
        assert process.poll() is None, (workplace / "killed.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert embeddings(workplace).height == 0
    done = submit(workplace, "jobs/encode.py")
    assert done.returncode == 0, done.stdout
    texts = pl.read_delta(str(workplace / "warehouse/ecommerce/texts"))
    assert embeddings(workplace)["text_hash"].is_unique().all()
    assert embeddings(workplace).height == texts.height
