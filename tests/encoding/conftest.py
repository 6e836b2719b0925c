"""One encoder for the folder's tests, and copies of its model that tests may break."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llmrec_pipeline.config import EncoderConfig
from llmrec_pipeline.encoding import Encoder, EncoderSpec, resolve
from llmrec_pipeline.encoding.choosing import REFERENCE


@pytest.fixture(scope="session")
def spec() -> EncoderSpec:
    return resolve(EncoderConfig(), REFERENCE)


@pytest.fixture(scope="session")
def encoder(spec: EncoderSpec) -> Encoder:
    return Encoder(spec)


@pytest.fixture
def model_folder(spec: EncoderSpec, tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with the packaged model's files, less the named ones."""

    def copy(*without: str, name: str = "copy") -> Path:
        ignored = shutil.ignore_patterns(*without)
        return Path(shutil.copytree(spec.folder, tmp_path / name, ignore=ignored))

    return copy
