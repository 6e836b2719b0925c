"""MLflow as the register of trained heads: what a version is, where its files lie, which one serves."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llmrec_pipeline.config import Settings
from llmrec_pipeline.errors import ModelError, StoreError

log = logging.getLogger("llmrec")
FOLDER = "model"
CHAMPION, CHALLENGER = "champion", "challenger"  # MLflow's aliases, and the models of a comparison
PROMOTION = "promotion"  # tag: what became of the version at the gate, and why
PREDECESSOR = "predecessor"  # tag: number of the version that was champion before this one
ROLLED_BACK = "rolled_back_to"  # tag: number of the version that serves instead


class Registry:
    """The registered versions of one domain's model, made from one warehouse.

    Each warehouse has a registered model of its own: MLflow's aliases are one a model, and warehouses may share a store.
    """

    def __init__(self, settings: Settings, owner: str) -> None:
        """Opens the store that the config names.

        Args:
            settings: names the store and the domain.
            owner: id of the warehouse's `events` table, which stays when its folder moves.
        """
        os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        import mlflow

        self._mlflow = mlflow
        self._settings = settings
        self.name = f"llmrec-{settings.domain.name}-{owner}"
        mlflow.set_tracking_uri(settings.pipeline.tracking.uri)
        self._client = mlflow.MlflowClient()

    def find(self, head_version: str) -> Any | None:
        """The version registered last with this head_version: one whose files were lost is made again."""
        found = [v for v in self._versions() if v.tags.get("head_version") == head_version]
        return max(found, key=lambda v: int(v.version), default=None)

    def newest(self) -> Any:
        """The version registered last.

        Raises:
            ModelError: none is registered.
        """
        versions = self._versions()
        if not versions:
            raise ModelError(
                f"no version of model {self.name!r} is registered in {self._settings.pipeline.tracking.uri}; run jobs/train.py first"
            )
        return max(versions, key=lambda v: int(v.version))

    def champion(self) -> Any | None:
        """The version with the alias `champion`; None as long as nothing was promoted."""
        found = self._client.search_registered_models(f"name='{self.name}'")
        number = found[0].aliases.get(CHAMPION) if found else None
        return None if number is None else self.numbered(number)

    def serving(self) -> Any:
        """The version that serves: the champion, or the newest as long as there is none.

        Raises:
            ModelError: none is registered.
        """
        return self.champion() or self.newest()

    def numbered(self, number: str) -> Any:
        """The version of this number.

        Raises:
            ModelError: there is none.
        """
        found = next((v for v in self._versions() if int(v.version) == int(number)), None)
        if found is None:
            raise ModelError(
                f"version {number} of model {self.name!r} is not registered any more in {self._settings.pipeline.tracking.uri}; "
                "register its files again, or name another version by MLflow's alias champion"
            )
        return found

    def tag(self, version: Any, tags: dict[str, str]) -> None:
        """Sets tags of a version."""
        for key, value in tags.items():
            self._client.set_model_version_tag(self.name, version.version, key, value)

    def set_alias(self, alias: str, version: Any) -> None:
        """Moves an alias to a version."""
        self._client.set_registered_model_alias(self.name, alias, version.version)

    def drop_alias(self, alias: str) -> None:
        """Removes an alias, if it is there."""
        self._client.delete_registered_model_alias(self.name, alias)

    def _versions(self) -> list[Any]:
        return list(self._client.search_model_versions(f"name='{self.name}'", max_results=1000))

    @contextmanager
    def run(self, run_name: str) -> Iterator[Any]:
        """An MLflow run of this project's experiment."""
        self._mlflow.set_experiment(self._settings.pipeline.tracking.experiment)
        with self._mlflow.start_run(run_name=run_name):
            yield self._mlflow

    def log_folder(self, folder: Path) -> str:
        """Stores a model's files with the active run; returns where they lie."""
        self._mlflow.log_artifacts(str(folder), FOLDER)
        return str(self._mlflow.get_artifact_uri(FOLDER))

    def register(self, uri: str, run_id: str, tags: dict[str, str]) -> None:
        """Makes a stored model a version; it serves at once as long as no version was promoted."""
        if not self._client.search_registered_models(f"name='{self.name}'"):
            self._client.create_registered_model(self.name, description=self._settings.domain.description)
        self._client.create_model_version(self.name, uri, run_id=run_id, tags=tags)

    @contextmanager
    def files(self, version: Any) -> Iterator[Path]:
        """A version's files, in a local folder while the context lasts.

        Raises:
            ModelError: the store has lost them.
            StoreError: it does not give them now.
        """
        with TemporaryDirectory() as folder:
            try:
                path = Path(self._mlflow.artifacts.download_artifacts(version.source, dst_path=folder))
            except Exception as error:  # MLflow's stores raise many classes
                cause = " ".join(str(error).split())[:200]
                told = f"files of {self.name} version {version.version} cannot be read at {version.source}: {cause}"
                if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
                    raise ModelError(told) from error
                raise StoreError(f"{told}; try again when the store can be reached") from error
            yield path


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
