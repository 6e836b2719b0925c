"""jobs/evaluate.py --promote and --rollback on the click example: real versions, real neighbours, real lists."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from pyspark.sql import functions as F

from llmrec_pipeline.cli import evaluate_job, run_step
from llmrec_pipeline.errors import ModelError, TableError
from llmrec_pipeline.interest.artefacts import HEAD
from llmrec_pipeline.registry import ROLLED_BACK, Registry
from llmrec_pipeline.steps import rollback as rollback_step
from llmrec_pipeline.steps.heads import JOINT_FILE

pytestmark = [pytest.mark.spark, pytest.mark.slow]
WIDE = "promotion.calibration=[0, 1000]"  # 51 users: deciles without any outcome are common
WATCHED = ("recommendations", "default_recommendations", "recommendation_log", "interest_states", "evaluation")


def registry_of(path) -> Registry:
    return Registry(path.settings(), path.warehouse.table_id("events"))


def promote(path, *overrides: str):
    return run_step("promote", path.settings(WIDE, *overrides))


def served(path) -> set[str]:
    """The head_versions of the current lists."""
    names = ("recommendations", "default_recommendations")
    return {version for name in names for version in pl.read_delta(path.warehouse.path(name))["head_version"]}


def aliases(path) -> dict[str, str]:
    """Alias -> head_version."""
    registry = registry_of(path)
    by_number = {int(version.version): version for version in registry._versions()}
    found = registry._client.search_registered_models(f"name='{registry.name}'")[0].aliases
    return {alias: by_number[int(number)].tags["head_version"] for alias, number in found.items()}


def tag(path, head: str, name: str) -> str | None:
    return registry_of(path).find(head).tags.get(name)


def register(path, head: str, *, weights: dict[str, object] | None = None, **named: str) -> str:
    """A copy of the fixture's version, with its neighbours, under another head_version; some joint weights and names changed."""
    registry = registry_of(path)
    first = registry.numbered("1")
    with registry.files(first) as files, TemporaryDirectory() as folder:
        shutil.copytree(files, folder, dirs_exist_ok=True)
        joint = json.loads((Path(folder) / JOINT_FILE).read_text())
        joint |= {"head_version": head, "weights": joint["weights"] | (weights or {}), **named}
        (Path(folder) / JOINT_FILE).write_text(json.dumps(joint))
        with registry.run("copy") as mlflow:
            uri = registry.log_folder(Path(folder))
            registry.register(uri, mlflow.active_run().info.run_id, {"head_version": head})
    neighbours = path.warehouse.read("item_neighbours").filter(F.col("head_version") == first.tags["head_version"])
    path.warehouse.append("item_neighbours", neighbours.withColumn("head_version", F.lit(head)))
    return head


def copy_encoder(path, encoder_id: str) -> None:
    """The warehouse's encoder and its vectors once more, under another id that no config means."""
    for name, columns in (
        ("encoders", {"encoder_id": encoder_id, "config_hash": encoder_id}),
        ("text_embeddings", {"encoder_id": encoder_id}),
    ):
        rows = path.warehouse.read(name)
        path.warehouse.append(name, rows.withColumns({column: F.lit(value) for column, value in columns.items()}))


class Fault(Exception):
    """Planted."""


def die(*_: object) -> None:
    raise Fault


def watched(path) -> dict[str, int]:
    return {name: path.warehouse.version(name) for name in WATCHED}


def test_from_the_first_champion_to_a_better_one_and_back(clicks_copy, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clicks_copy
    first = registry_of(path).newest().tags["head_version"]
    with pytest.raises(ModelError, match=r"no version of .* is champion"):
        run_step("rollback", path.settings())
    run = promote(path)
    assert run.counts["promoted"] == 1
    assert run.counts["users_compared"] == 51
    assert aliases(path) == {"champion": first}
    rows = pl.read_delta(path.warehouse.path("evaluation")).filter(pl.col("evaluation_id") == run.versions["evaluation_id"])
    assert set(rows["model"]) == {"challenger"}
    before = watched(path)
    assert promote(path).counts["promoted"] == 0
    assert watched(path) == before
    with pytest.raises(ModelError, match=r"version 1 of .* is the first champion and has no predecessor"):
        run_step("rollback", path.settings())

    equal = register(path, "equal", state_version="equal state")
    path.run("recommend")  # a challenger serves nobody
    assert served(path) == {first}
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "drop_alias", die)
        with pytest.raises(Fault):
            promote(path)
    assert aliases(path) == {"champion": first, "challenger": equal}
    assert served(path) == {equal}  # lists first, the alias last
    assert promote(path).counts["promoted"] == 1
    assert aliases(path) == {"champion": equal}
    assert tag(path, equal, "promotion") == "promoted"
    assert tag(path, equal, "predecessor") == "1"
    states = pl.read_delta(path.warehouse.path("interest_states"))
    by_version = states.group_by("state_version").agg(pl.col("user_id").sort())
    assert by_version.height == 2
    assert by_version["user_id"][0].equals(by_version["user_id"][1])
    ratio = pl.read_delta(path.warehouse.path("evaluation")).filter(
        (pl.col("model") == "challenger / champion") & (pl.col("slice") == "all")
    )
    assert ratio.select("k", "value", "low", "high", "n").row(0) == (10, 1.0, 1.0, None, 51)

    with monkeypatch.context() as patch:
        patch.setattr(rollback_step, "publish", lambda *_: None)  # as where lists of a later day have come meanwhile
        with pytest.raises(TableError, match=rf"lists of version {equal} as of .* stand, expected {first}"):
            run_step("rollback", path.settings())
    with monkeypatch.context() as patch:
        registry = registry_of(path)
        patch.setattr(rollback_step, "publish", lambda *_: registry.set_alias("champion", registry.numbered("1")))
        with pytest.raises(ModelError, match=r"version 1 of .* became champion meanwhile, expected 2; run this again"):
            run_step("rollback", path.settings())
        registry.set_alias("champion", registry.numbered("2"))
    assert aliases(path) == {"champion": equal}
    assert tag(path, equal, "promotion") == "promoted"
    back = run_step("rollback", path.settings())
    assert back.versions["head_version"] == first
    assert aliases(path) == {"champion": first}
    assert served(path) == {first}
    assert tag(path, equal, "promotion") == "rolled back to version 1"
    before = watched(path)
    assert promote(path).counts["promoted"] == 0
    assert tag(path, equal, "promotion") == "refused: it was rolled back to version 1; train another one"
    assert aliases(path) == {"champion": first, "challenger": equal}
    assert watched(path) == before


def test_a_worse_or_broken_challenger_is_refused_and_nothing_that_serves_changes(clicks_copy) -> None:
    path = clicks_copy
    served_now = served(path)
    copy_encoder(path, "before")
    champion = register(path, "champion of another encoder", encoder_id="before", state_version="of another encoder")
    registry_of(path).set_alias("champion", registry_of(path).newest())
    before, lists = watched(path), pl.read_delta(path.warehouse.path("recommendations"))
    with pytest.raises(ModelError, match=r"encoder_id is .* by the config, the head was trained on before"):
        path.run("recommend")
    assert watched(path) == before  # no state has taken vectors that are not its own
    worse = register(path, "worse", weights={"cf_weight": [-5.0] * 4})
    assert promote(path).counts["promoted"] == 0
    refusal = tag(path, worse, "promotion")
    assert refusal.startswith("refused: ")
    assert "NDCG@10 of all is 0." in refusal
    assert aliases(path) == {"champion": champion, "challenger": worse}
    assert served(path) == served_now
    assert pl.read_delta(path.warehouse.path("recommendations")).equals(lists)
    after = watched(path)
    assert after == before | {"evaluation": before["evaluation"] + 1}
    assert promote(path).counts["promoted"] == 0
    assert watched(path) == after

    broken = register(path, "broken", weights={"temperature": float("nan")})
    assert promote(path).counts["promoted"] == 0
    assert tag(path, broken, "promotion") == "refused: the challenger gives scores that are not finite"
    assert aliases(path) == {"champion": champion, "challenger": broken}
    with pytest.raises(TableError, match=r"lists as of 2019-11-05 .* later than the end of 2019-11-01.*leave out --day"):
        promote(path, "day='2019-11-01'")
    assert watched(path) == after


def lose_files(path, number: str) -> None:
    """A version's weights go, as where MLflow's store has lost them; those of the fixture are not this function's."""
    assert number != "1"
    (Path(registry_of(path).numbered(number).source.removeprefix("file://")) / HEAD).unlink()


def test_a_champion_that_cannot_be_read_gives_way_to_a_version_that_can(clicks_copy) -> None:
    path = clicks_copy
    lost = register(path, "lost")
    registry = registry_of(path)
    registry.set_alias("champion", registry.numbered("2"))
    lose_files(path, "2")
    refused = r"version 2 of .* cannot be read \(.* lacks head\.safetensors.*\); run jobs/train\.py, .* run jobs/evaluate\.py --rollback"
    for job in ("recommend", "rollback"):  # there is no other version yet
        with pytest.raises(ModelError, match=refused):
            path.run(job)
    better = register(path, "better")
    with pytest.raises(ModelError, match=refused):
        promote(path)
    assert aliases(path) == {"champion": lost, "challenger": better}
    assert run_step("rollback", path.settings()).versions["head_version"] == better
    assert aliases(path) == {"challenger": better}
    assert served(path) == {better}
    assert tag(path, lost, "promotion") == "rolled back to version 3"
    assert promote(path).counts["promoted"] == 1
    assert aliases(path) == {"champion": better}
    registry.tag(registry.numbered("3"), {"predecessor": "2"})
    with pytest.raises(ModelError, match=r"version 3 of .* can serve, but version 2, its predecessor, has lost files or rows"):
        run_step("rollback", path.settings())
    assert aliases(path) == {"champion": better}
    registry.tag(registry.numbered("3"), {ROLLED_BACK: "1"})
    lose_files(path, "3")
    with pytest.raises(ModelError, match=r"version 3 of .*, the newest, was rolled back before; train another one first"):
        run_step("rollback", path.settings())


def test_a_version_whose_files_are_lost_is_trained_again(clicks_copy) -> None:
    path = clicks_copy
    registry, before = registry_of(path), path.versions()
    first = registry.newest()
    registry.register("file:///nowhere", first.run_id, {"head_version": first.tags["head_version"]})
    with pytest.raises(ModelError, match=r"version 2 of .* cannot be read \(files of .*; run jobs/train\.py"):
        path.run("evaluate")
    trained = path.run("train")["train"]
    assert int(registry.newest().version) == 3
    assert registry.newest().tags["head_version"] == trained.versions["head_version"] == first.tags["head_version"]
    path.run("train", "recommend", "evaluate")
    assert int(registry.newest().version) == 3
    assert path.versions() == before


def test_a_warehouse_has_champions_of_its_own_and_the_newest_serves_until_there_is_one(clicks_copy) -> None:
    other = Registry(clicks_copy.settings(), "another-warehouse")
    with pytest.raises(ModelError, match=r"run jobs/train\.py first"):
        other.serving()
    with other.run("none") as mlflow:
        run_id = mlflow.active_run().info.run_id
    for head in ("a", "b"):
        other.register("file:///nowhere", run_id, {"head_version": head})
    assert other.serving().tags["head_version"] == "b"
    other.set_alias("champion", other.find("a"))
    assert other.serving().tags["head_version"] == "a"
    assert other.newest().tags["head_version"] == "b"
    assert "champion" not in aliases(clicks_copy)
    with pytest.raises(ModelError, match=r"version 7 of model .* is not registered any more"):
        other.numbered("7")


def test_promote_and_rollback_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        evaluate_job("evaluate")(["--promote", "--rollback"])
    assert stopped.value.code == 2
    assert "exclude each other" in capsys.readouterr().err
