"""`texts` to a cheaper tier of the encoder: a folder, judged against the encoder that it was made from (docs/encoding.md)."""

from pathlib import Path

from pyspark.sql import functions as F
from rich.console import Console
from rich.table import Table

from llmrec_pipeline.config import check_root
from llmrec_pipeline.encoding import compressing
from llmrec_pipeline.encoding.tier import TOP, Judgement, Kind
from llmrec_pipeline.tracking import Run


def compress(run: Run, *, kind: Kind, out: str, layers: int | None = None, dimensions: int | None = None) -> None:
    """Makes the folder and prints how near its vectors are. Which texts are taken, and for what, the seed decides."""
    seed = run.settings.pipeline.seed
    check_root(out, "--out", run.settings.pipeline.paths.allowed_roots)
    with run.stage("read"):
        texts_of_items = run.read("texts")
        if run.warehouse.exists("user_profiles"):  # lines about users, of whom there may be more than items
            texts_of_items = texts_of_items.join(run.read("user_profiles").select("text_hash"), on="text_hash", how="left_anti")
        drawn = texts_of_items.orderBy(F.xxhash64("text_hash", F.lit(seed)), "text_hash").limit(compressing.TEXTS)
        texts = drawn.select("text").toArrow()["text"].to_pylist()
    with run.stage("compress"):
        config = run.settings.pipeline.encoder
        tier = compressing.compress(kind, config, texts, Path(out), layers=layers, dimensions=dimensions, seed=seed)
    run.counts |= {"texts": len(texts), "texts_learnt": tier.learnt}
    if tier.judgement:
        print(f"{kind} tier of {config.source}, {tier.dimensions} dimensions: encoder.source={out}")
        _print(tier.judgement)
        if tier.judgement.overlap < config.min_overlap:
            print(f"encode refuses it: the overlap is below encoder.min_overlap, {config.min_overlap:g}")


def _print(found: Judgement) -> None:
    table = Table("", "tier", "base, fp32", "random vectors")
    table.add_row(f"top-{TOP} overlap", f"{found.overlap:.3f}", "1", f"{found.random_overlap:.3f}")
    table.add_row("cosine, mean", f"{found.mean_cosine:.4f}", "1", "")
    table.add_row("cosine, lowest", f"{found.lowest_cosine:.4f}", "1", "")
    table.add_row("tokens/s, one thread", f"{found.tokens_per_second:,.0f}", f"{found.base_tokens_per_second:,.0f}", "")
    Console(width=120).print(table)
    print(f"{found.queries:,} held-out texts, their nearest among {found.corpus:,}")
