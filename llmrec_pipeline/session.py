"""The Spark session: one per process, settings from spark-defaults or spark-submit, never from a module constant."""

import logging
import os
import shutil
from typing import TYPE_CHECKING, Any

from llmrec_pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DELTA_EXTENSION = "io.delta.sql.DeltaSparkSessionExtension"


def get_session(app_name: str) -> "SparkSession":
    """The running session, or a new one.

    Raises:
        PipelineError: Java is missing, or Spark runs without Delta.
    """
    for chatty in ("DataFrameQueryContextLogger", "SQLQueryContextLogger"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)  # errors reach the user as exceptions
    # torch's threads share the cores with the JVM: a thread that waits must sleep, not spin (18 times slower on two busy cores)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from pyspark.core.context import SparkContext
    from pyspark.sql import SparkSession

    if SparkContext._gateway is None and "PYSPARK_GATEWAY_PORT" not in os.environ:
        _require_java()
    spark = SparkSession.builder.appName(app_name).getOrCreate()
    if DELTA_EXTENSION not in str(spark.conf.get("spark.sql.extensions", "")):
        raise PipelineError(
            f"this Spark session has no Delta (spark.sql.extensions is {spark.conf.get('spark.sql.extensions', '')!r}, expected "
            f"{DELTA_EXTENSION}); run `make setup` and use its spark-submit, or pass --properties-file conf/spark/spark-defaults.conf "
            "and --packages io.delta:delta-spark_4.2_2.13:4.4.0"
        )
    spark.conf.set("spark.sql.session.timeZone", "UTC")  # naive times are read in the domain's zone, never in the machine's
    spark.conf.set("spark.sql.sources.partitionColumnTypeInference.enabled", "false")  # a folder value stays as spelt
    # an insert-only merge reads its source once, and needs no copy of it; Warehouse.upsert keeps one of its own
    spark.conf.set("spark.databricks.delta.merge.materializeSource", "none")
    return spark


def java_class(spark: "SparkSession", name: str) -> Any:
    """A class of the JVM by its full name; for each part of a dotted `jvm.org.apache...` py4j would search all jars."""
    return getattr(spark._jvm, name)


def _require_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java", path=f"{home}/bin" if home else None) is None:
        raise PipelineError(
            f"no Java was found ({f'JAVA_HOME is {home}' if home else 'PATH has none, JAVA_HOME is not set'}), expected Java 17 or newer; "
            "install it (Debian: sudo apt-get install openjdk-17-jre-headless)"
        )
