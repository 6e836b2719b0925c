"""The README's ways of reading the lists give the same rows."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.spark
README = Path(__file__).parent.parent.parent / "README.md"


def blocks() -> list[str]:
    section = README.read_text(encoding="utf-8").split("## Reading the tables")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.S)


def test_the_readme_has_a_way_for_each_reader() -> None:
    assert [block.splitlines()[0] for block in blocks()] == ["# Spark SQL", "# deltalake + pandas", "# polars", "# DuckDB"]


@pytest.mark.parametrize("number", range(4))
def test_each_way_prints_the_list_of_the_user(clicks, spark, capsys: pytest.CaptureFixture[str], number: int) -> None:
    user = clicks.warehouse.read("recommendations").orderBy("user_id").first()["user_id"]
    expected = clicks.warehouse.read("recommendations").filter(f"user_id = '{user}' AND rank = 1").first()
    code = blocks()[number].replace("warehouse/retail", clicks.settings().root).replace("17850", user)
    exec(compile(code, "README.md", "exec"), {"spark": spark})
    printed = capsys.readouterr().out
    assert str(expected["score"])[:4] in printed
