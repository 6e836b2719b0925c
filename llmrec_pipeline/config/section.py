"""What every section of the configuration shares: frozen, unknown keys refused."""

from itertools import pairwise
from math import inf
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _ascending(edges: tuple[float, ...]) -> tuple[float, ...]:
    if any(not low < high for low, high in pairwise((-inf, *edges))):
        raise ValueError("expected ascending numbers, each once")
    return edges


Ascending = AfterValidator(_ascending)  # of a tuple of edges
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
