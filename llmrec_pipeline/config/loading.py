"""Reading and checking both YAML files; every mistake is told with the key, the value and what was expected."""

import hashlib
import json
import posixpath
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from llmrec_pipeline.config.domain import DomainConfig
from llmrec_pipeline.config.pipeline import PipelineConfig
from llmrec_pipeline.config.section import Section
from llmrec_pipeline.errors import ConfigError, nearest

M = TypeVar("M", bound=BaseModel)


class Settings(Section):
    """A pipeline configuration with the domain that it names."""

    pipeline: PipelineConfig
    domain: DomainConfig

    @property
    def root(self) -> str:
        """Folder of the domain's tables, whole: Delta creates no table at a relative path."""
        return f"{_whole(self.pipeline.warehouse).rstrip('/')}/{self.domain.name}"

    @property
    def mapping_hash(self) -> str:
        """Hash of what decides how records become events, items and texts; where the files lie and what a second delivery does is no part of it."""
        mapping = self.domain.model_dump(mode="json")
        del mapping["source"]["redelivery"]
        for described in (mapping["source"], *mapping["source"]["tables"].values(), mapping["items"]["source"]):
            if described:
                del described["path"]
        return hash_json({"domain": mapping, "seed": self.pipeline.seed})

    def digest(self, *sections: str) -> str:
        """Hash of the named pipeline sections; all of the configuration when none is named."""
        whole = self.model_dump(mode="json")
        part = {name: whole["pipeline"][name] for name in sections} if sections else whole
        return hash_json(part)


def hash_json(value: Any) -> str:
    """A 128-bit hex hash of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]


def load_settings(
    config: str | Path = "conf/pipeline.yaml", domain: str | None = None, overrides: tuple[str, ...] = ()
) -> Settings:
    """Reads and checks the pipeline's and the domain's YAML.

    Args:
        config: path of the pipeline's YAML.
        domain: name or path of the domain; overrides the one in `config`.
        overrides: `key=value` with dotted keys; keys that start with `domain.` change the domain's YAML.

    Raises:
        ConfigError: a file is missing or broken, a key is unknown, or a value is out of range.
    """
    path = Path(config)
    raw = _read_yaml(path)
    pairs = [_parse_override(text) for text in overrides]
    for keys, value in pairs:
        if keys[0] != "domain" or len(keys) == 1:
            _assign(raw, keys, value)
    if domain:
        raw["domain"] = domain
    pipeline = _validate(PipelineConfig, raw, str(path))
    name = pipeline.domain
    file = Path(name) if name.endswith((".yaml", ".yml")) else path.parent / "domains" / f"{name}.yaml"
    if not file.exists():
        known = sorted(found.stem for found in (path.parent / "domains").glob("*.yaml"))
        raise ConfigError(
            f"domain {name!r} has no file {file}; {nearest(name, known)} Or write that file (README, 'Your own data')."
        )
    described = _read_yaml(file)
    for keys, value in pairs:
        if keys[0] == "domain" and len(keys) > 1:
            _assign(described, keys[1:], value)
    settings = Settings(pipeline=pipeline, domain=_validate(DomainConfig, described, str(file)))
    _check_roots(settings)
    return settings


def _check_roots(settings: Settings) -> None:
    """Raises ConfigError where a path lies outside `paths.allowed_roots`."""
    roots = settings.pipeline.paths.allowed_roots
    source, encoder = settings.domain.source, settings.pipeline.encoder.source
    files = [source, *source.tables.values(), *filter(None, [settings.domain.items.source])]
    used = {path: "source.path" for described in files for path in described.paths} | {settings.pipeline.warehouse: "warehouse"}
    if not encoder.startswith(("package:", "hub:")):
        used[encoder] = "encoder.source"
    for path, key in used.items():
        check_root(path, key, roots)


def check_root(path: str, key: str, roots: Sequence[str]) -> None:
    """Raises ConfigError where there are roots and the path, which `key` named, lies under none of them, or its pattern hides where it leads."""
    if roots and re.search(r"\\|\{.*/.*\}", path):  # Hadoop makes `..` of {a,../b}, of .{./b} and of .\\.
        raise ConfigError(
            f"{key} {path!r} has a folder within braces, or a backslash, but paths.allowed_roots is set; name the paths one by one"
        )
    if roots and not any(_whole(path).startswith(f"{_whole(root).rstrip('/')}/") for root in roots):
        raise ConfigError(
            f"{key} {path!r} lies outside paths.allowed_roots {list(roots)}; move it there, or have the list extended"
        )


def _whole(path: str) -> str:
    """An absolute path, or a URI, as Hadoop reads it: `file:/x` is a path of this machine, `s3a://bucket/a/../b` one of its bucket."""
    scheme, colon, rest = path.partition(":")
    if not colon or "/" in scheme:
        return str(Path(path).resolve())
    if scheme == "file":
        return str(Path("/" + rest.lstrip("/")).resolve())
    authority, _, inner = rest[2:].partition("/") if rest.startswith("//") else ("", "", rest)
    return f"{scheme}://{authority}{posixpath.normpath('/' + inner.lstrip('/'))}"


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ConfigError(f"config file {path} does not exist (working directory {Path.cwd()}); pass --config PATH")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that no calendar has, bytes that are not UTF-8
        raise ConfigError(f"{path} is not valid YAML: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}, expected a mapping of keys to values")
    return content


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _parse_override(text: str) -> tuple[list[str], Any]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"--set {text!r} is not key=value; example: --set interest.max_epochs=3")
    try:
        return key.strip().split("."), yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--set {text!r}: the value is not valid YAML: {_one_line(error)}") from None


def _assign(target: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        target = target.setdefault(key, {})
    target[keys[-1]] = value


def _validate(model: type[M], raw: dict[str, Any], origin: str) -> M:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{origin}: " + "; ".join(_explain(model, item) for item in error.errors())) from None


def _explain(model: type[BaseModel], item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "(whole file)"
    if item["type"] == "extra_forbidden":
        return f"unknown key {where!r}; {nearest(str(item['loc'][-1]), _known_keys(model, item['loc'][:-1]))}"
    if item["type"] == "missing":
        return f"key {where!r} is missing"
    return f"{where} = {item['input']!r}: {item['msg']}" if item["loc"] else str(item["msg"])


def _known_keys(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    current: Any = model
    for part in path:
        fields = getattr(current, "model_fields", {})
        current = _section_of(fields[part].annotation) if part in fields else current
    return list(current.model_fields)


def _section_of(annotation: Any) -> Any:
    """The pydantic model within `X`, `X | None`, `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_section_of(part) for part in typing.get_args(annotation)]
    return next((part for part in found if part is not None), None)
