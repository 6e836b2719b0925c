"""Imports point one way, documents are current, every default has its reason (DESIGN 5)."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from llmrec_pipeline.config import DomainConfig, PipelineConfig, load_settings
from llmrec_pipeline.errors import ConfigError
from llmrec_pipeline.tables import TABLES, to_markdown

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "llmrec_pipeline"
FORBIDDEN = {
    "behaviour": ("torch", "transformers", "llmrec_pipeline.steps", "llmrec_pipeline.interest", "llmrec_pipeline.encoding"),
    "interest": ("pyspark", "delta", "llmrec_pipeline.steps", "llmrec_pipeline.recommendation", "llmrec_pipeline.behaviour"),
    "collaborative": ("pyspark", "torch", "llmrec_pipeline.steps", "llmrec_pipeline.recommendation"),
    "recommendation": ("pyspark", "llmrec_pipeline.steps"),
    "evaluation": ("pyspark", "torch", "llmrec_pipeline.steps"),
    "encoding": ("llmrec_pipeline.steps", "llmrec_pipeline.interest"),
}


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: an import that does not name its module whole"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_point_one_way(folder: str) -> None:
    files = sorted((PACKAGE / folder).glob("*.py"))
    assert files
    wrong = [
        (file.name, name)
        for file in files
        for name in imports(file)
        for forbidden in FORBIDDEN[folder]
        if name == forbidden or name.startswith(forbidden + ".")
        if (folder, file.name, forbidden) != ("encoding", "spark.py", "pyspark")
    ]
    assert wrong == []


def test_the_encoder_itself_knows_no_spark() -> None:
    for file in (PACKAGE / "encoding").glob("*.py"):
        if file.name != "spark.py":
            assert not {name for name in imports(file) if name.startswith("pyspark")}, file.name


def test_jobs_are_thin_and_import_the_command_line_alone() -> None:
    for file in (ROOT / "jobs").glob("*.py"):
        assert {name for name in imports(file) if not name.startswith("llmrec_pipeline.cli.")} == {"llmrec_pipeline.cli"}, (
            file.name
        )
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 60, file.name


@pytest.mark.parametrize("job", ["ingest", "textualise", "encode", "train", "recommend", "evaluate", "compress", "run_all"])
def test_help_needs_no_heavy_import(job: str) -> None:
    code = f"import sys, runpy; sys.argv = ['{job}', '--help']\ntry: runpy.run_path('jobs/{job}.py', run_name='__main__')\nexcept SystemExit as e: assert not e.code\nassert not {{'torch', 'pyspark', 'mlflow', 'numpy'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "--set" in done.stdout


def test_tables_document_is_current() -> None:
    assert (ROOT / "docs/tables.md").read_text(encoding="utf-8") == to_markdown(), "run `make docs`"


def test_every_table_has_a_key_among_its_columns() -> None:
    for table in TABLES.values():
        assert set(table.key) | set(table.cluster_by) <= set(table.column_names), table.name
        required = {column.name for column in table.columns if column.required}
        assert set(table.key) <= required, table.name


def test_shipped_configuration_loads_and_every_key_of_it_is_known() -> None:
    for domain in sorted((ROOT / "conf/domains").glob("*.yaml")):
        settings = load_settings(ROOT / "conf/pipeline.yaml", domain.stem)
        assert settings.domain.name == domain.stem
        assert set(yaml.safe_load(domain.read_text(encoding="utf-8"))) <= set(DomainConfig.model_fields)


def test_an_unknown_key_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'interest.hiden_size'; did you mean 'hidden_size'"):
        load_settings(ROOT / "conf/pipeline.yaml", None, ("interest.hiden_size=3",))
    with pytest.raises(ConfigError, match=r"interest.hidden_size = -3"):
        load_settings(ROOT / "conf/pipeline.yaml", None, ("interest.hidden_size=-3",))
    with pytest.raises(ConfigError, match=r"domain 'retial' has no file.*did you mean 'retail'"):
        load_settings(ROOT / "conf/pipeline.yaml", "retial")
    with pytest.raises(ConfigError, match="not key=value"):
        load_settings(ROOT / "conf/pipeline.yaml", None, ("seed",))
    with pytest.raises(ConfigError, match=r"2 processes cannot share a GPU; set interest.processes=1"):
        load_settings(ROOT / "conf/pipeline.yaml", None, ("interest.device=cuda", "interest.processes=2"))


@pytest.mark.parametrize("weight", ["exposure_weight", "contrastive_weight"])
def test_a_term_that_compares_an_updates_users_wants_them_in_one_process(weight: str) -> None:
    with pytest.raises(ConfigError, match=r"which 2 processes share; set interest.processes=1, or both weights to 0"):
        load_settings(ROOT / "conf/pipeline.yaml", "retail", ("interest.processes=2", f"interest.{weight}=0.1"))


def test_what_is_written_without_a_dictionary_is_a_column() -> None:
    """Parquet ignores a setting for a column that nobody has."""
    columns = [column for table in TABLES.values() for column in table.columns]
    known = {f"{column.name}.list.element" if column.type.startswith("array<") else column.name for column in columns}
    settings = (ROOT / "conf/spark/spark-defaults.conf").read_text()
    named = re.findall(r"^spark\.hadoop\.parquet\.enable\.dictionary#(\S+) +false$", settings, flags=re.M)
    assert len(named) == settings.count("enable.dictionary#") > 0
    assert set(named) <= known


def test_every_setting_says_what_it_is_for() -> None:
    silent = []
    for name, section in PipelineConfig.model_fields.items():
        inner = section.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            silent += [f"{name}.{key}" for key, value in inner.model_fields.items() if not value.description]
        elif not section.description:
            silent.append(name)
    assert silent == []
