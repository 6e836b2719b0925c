"""The one scorer behind recommend and evaluate: a block of interest states in, p, s and y out (DESIGN 1.5).

Legend: U users of a block, N items of the catalogue, E behaviour types, H half-lives.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import sparse

from llmrec_pipeline.collaborative import (
    Neighbours,
    borrow,
    collaborative_inputs,
    compress,
    known_items,
    neighbour_matrix,
    own_recent_weights,
    own_weights,
    similarity_scores,
)
from llmrec_pipeline.config import CollaborativeConfig, DomainConfig
from llmrec_pipeline.errors import ConfigError
from llmrec_pipeline.interest.cancelling import known_types
from llmrec_pipeline.interest.data import Catalogue, DailyCounts, OwnCounts, Query
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.popularity import decayed_counts
from llmrec_pipeline.interest.scoring import ItemSide, Parts, item_side, score_parts
from llmrec_pipeline.interest.state import States
from llmrec_pipeline.recommendation.joint import (
    Contributions,
    JointWeights,
    candidate_mask,
    contributions,
    first_time_similarity,
    joint_logit,
    log_softmax,
    weighed_log_s,
    with_first_time,
)

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Similar:
    """What s is made of before it is weighed: item-item similarity by co-occurrence and by transitions, own decayed counts; [U, N] each."""

    similarity: Float32
    own: Float32
    transition: Float32


@dataclass(frozen=True)
class Scores:
    """A block of users under the joint model; log probabilities and scores of masked items are -inf."""

    mask: npt.NDArray[np.bool_]  # [U, N] True = candidate
    known: sparse.csr_array  # [U, N] bool, items of earlier target events
    log_p: Float32  # [U, N]
    log_s: Float32  # [U, N]
    joint: Contributions  # score = y's logit, centred, and its five shares
    gate: Float32  # [U] g, weight of the short-term interest


@dataclass(frozen=True)
class Scorer:
    """A head_version as of one query; picklable, so that one broadcast serves all executors."""

    model: InterestModel
    catalogue: Catalogue
    text_vectors: Float32  # [texts, D]
    popularity: npt.NDArray[np.float64]  # [N, E, H] decayed counts before the query's day
    neighbours: Neighbours  # by co-occurrence, rows in this catalogue
    transitions: Neighbours
    weights: JointWeights
    config: CollaborativeConfig
    domain: DomainConfig
    query: Query
    blocked: npt.NDArray[np.bool_]  # [N] True: never recommended
    gate_shift: float = 0.0  # added to the gate's logit
    new_item_shift: float = 0.0  # added to b_i(t) of an item that nobody has had

    @cached_property
    def items(self) -> ItemSide:
        found = item_side(self.model, self.catalogue, self.text_vectors)
        return replace(found, least_bias=found.least_bias + np.float32(self.new_item_shift))

    @cached_property
    def similar_items(self) -> sparse.csr_array:
        """[N, N] what is owned speaks for what is scored; cold items borrow from their nearest in text."""
        return self._filled(self.neighbours)

    @cached_property
    def following_items(self) -> sparse.csr_array:
        """[N, N] the same by transitions."""
        return self._filled(self.transitions)

    def _filled(self, found: Neighbours) -> sparse.csr_array:
        text = self.catalogue.vectors(self.text_vectors)
        warm = np.zeros(self.catalogue.n_items, dtype=bool)
        warm[found.item] = True
        filled = borrow(found, text, warm, self.config.cold_neighbours, self.config.neighbours)
        return neighbour_matrix(filled, self.catalogue.n_items)

    @property
    def type_weights(self) -> list[float]:
        return [kind.weight for kind in self.domain.event_types.values()]

    @property
    def is_target(self) -> list[bool]:
        return [kind.target for kind in self.domain.event_types.values()]

    def parts(self, states: States) -> Parts:
        """p's logit in parts."""
        return score_parts(self.model, states, self.query, self.catalogue, self.items, self.popularity, self.gate_shift)

    def candidates(self, own: OwnCounts) -> tuple[npt.NDArray[np.bool_], sparse.csr_array]:
        """[U, N] mask (True = candidate) and known items."""
        known = known_items(own, known_types(self.is_target, self.domain.cancels), self.catalogue.n_items)
        return candidate_mask(self.catalogue.first_day, self.query.day, known, self.domain.repeats, self.blocked), known

    def similar(self, own: OwnCounts) -> Similar:
        """What s is made of, as of the query."""
        n_items, half_lives = self.catalogue.n_items, self.model.config.repeat_half_lives
        weights = co_occurrence_weights(own, self.type_weights, n_items, self.config, half_lives)
        place = half_life_position(self.config.own_half_life, half_lives, "own_half_life")
        recent = own_weights(own, self.type_weights, n_items, place)
        similarity, counts = collaborative_inputs(weights, recent, self.similar_items, self.config)
        following = similarity_scores(own_recent_weights(own, self.type_weights, n_items), self.following_items)
        transition = compress(following, self.config.transition_floor)
        return Similar(similarity, counts if self.domain.repeats else np.zeros_like(counts), transition)

    def at(self, query: Query, popularity: npt.NDArray[np.float64]) -> "Scorer":
        """The same head as of another query; `popularity` [N, E, H] is as of its day."""
        other = replace(self, query=query, popularity=popularity)
        vars(other).update(items=self.items, similar_items=self.similar_items, following_items=self.following_items)
        return other

    def score(self, states: States) -> Scores:
        """p, s and y of every catalogue item for a block of users."""
        return self.fuse(self.parts(states), states.steps)

    def fuse(self, parts: Parts, steps: npt.NDArray[np.int64]) -> Scores:
        """p, s and y from the parts of p's logit and the users' history lengths [U] in steps."""
        mask, known = self.candidates(parts.own)
        found = self.similar(parts.own)
        weights, first_time = self.weights, self.weights.first_time
        log_s = weighed_log_s(found.similarity, found.own, found.transition, weights, mask)
        logit = joint_logit(parts.logits, log_s, weights, steps, mask)
        if first_time:
            new = mask & ~known.toarray()
            similar = first_time_similarity(found.similarity, found.own, found.transition, first_time, new)
            logit = with_first_time(logit, parts.logits, similar, first_time, new)
        joint = contributions(logit, parts.short, parts.long, parts.bias, parts.repeat, weights.temperature, mask)
        return Scores(mask, known, log_softmax(parts.logits, mask), log_s, joint, parts.gate)


def popularity_as_of(model: InterestModel, daily: DailyCounts, day: int, n_items: int) -> npt.NDArray[np.float64]:
    """[N, E, H] what `Scorer.popularity` holds."""
    return decayed_counts(daily, day, model.config.popularity_half_lives, n_items, len(model.event_types))


def co_occurrence_weights(
    own: OwnCounts, type_weights: list[float], n_items: int, config: CollaborativeConfig, half_lives: tuple[float, ...]
) -> sparse.csr_array:
    """[U, N] own counts as `fit_neighbours` and `collaborative_inputs` take them: fitted and served alike."""
    place = None if config.half_life is None else half_life_position(config.half_life, half_lives, "half_life")
    return own_weights(own, type_weights, n_items, place)


def half_life_position(half_life: float, half_lives: tuple[float, ...], name: str) -> int:
    """Place of a half-life among those that the states carry.

    Raises:
        ConfigError: the states do not carry it.
    """
    if half_life not in half_lives:
        raise ConfigError(
            f"collaborative.{name} = {half_life} is none of interest.repeat_half_lives {list(half_lives)}; add it there"
        )
    return half_lives.index(half_life)
