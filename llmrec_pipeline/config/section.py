"""What every section of the configuration shares: frozen, unknown keys refused."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _ascending(edges: tuple[float, ...]) -> tuple[float, ...]:
    if list(edges) != sorted(set(edges)):
        raise ValueError(f"expected ascending numbers, each once: {sorted(set(edges))}")
    return edges


Ascending = AfterValidator(_ascending)  # of a tuple of edges
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
