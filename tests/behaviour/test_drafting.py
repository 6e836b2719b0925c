"""Drafts: literal files in, literal YAML out; whatever comes in, the draft is YAML that loads, or one clear error."""

import bz2
import datetime
import gzip
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import orc, parquet

from llmrec_pipeline.behaviour.drafting import quoted, scalar, sql, suggest
from llmrec_pipeline.behaviour.sniffing import separators, time_patterns
from llmrec_pipeline.behaviour.templates import parse_template
from llmrec_pipeline.config import DomainConfig
from llmrec_pipeline.errors import InputError

DAY_MONTH = "customer,product,when,action\nk1,tea-01,03/08/2024 10:15,buy\nk1,mug-02,05/08/2024 09:00,buy\nk2,jam-03,13/08/2024 12:00,buy\n"
DECIMAL_COMMA = (
    "kunde;artikel;art;zeit;menge;preis\nk1;a1;kauf;2024-03-01 10:00:00;1;3,99\nk1;a2;kauf;2024-03-01 10:01:00;1;1.234,50\n"
    "k2;a3;kauf;2024-03-01 10:02:00;2;12\nk3;a4;kauf;2024-03-01 10:04:00;1;1.000\nk3;a1;kauf;2024-03-01 10:05:00;1;-2,00\n"
    "k3;a2;kauf;2024-03-01 10:06:00;1;n. v.\nk4;a4;kauf;2024-03-01 10:07:00;1;1.000.000,00\n"
)
LEADING_ZEROS = "member,plu,action,time\n0042,7,view,2024-04-02 09:00:00\n42,007,purchase,2024-04-02 09:01:00\n4.2e1,01,purchase,2024-04-02 09:07:00\n"
LOCAL_TIMES = "row,user,item,action,local_time\n1,z1,i1,click,2024-03-31 01:59:59\n2,z1,i2,click,2024-03-31 02:30:00\n"
MIND = "1\tU1\t11/11/2019 9:05:58 AM\tN1 N2 N3\tN6-1 N7-0\n2\tU2\t11/11/2019 9:06:10 AM\t\tN7-0 N8-1\n3\tU3\t11/13/2019 9:07:00 AM\tN2 N9\tN5-1\n"
MOVIELENS = "196\t242\t3\t881250949\n186\t302\t3\t891717742\n22\t377\t1\t878887116\n"
TAOBAO = "1,2268318,2520377,pv,1511544070\n1,2333346,2520771,pv,1511561733\n1,3830808,4181361,buy,1511593493\n"
REPEATS = "guessed: what a user has had may be recommended again; false: it never is"


def draft(folder: Path, content: str | bytes, name: str = "log.csv") -> str:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return suggest(str(file))


def loaded(text: str) -> dict[str, Any]:
    """The draft as the pipeline reads it: it validates, and its templates compile."""
    raw = yaml.safe_load(text)
    for kind in DomainConfig.model_validate(raw).event_types.values():
        parse_template(kind.template["en"])
    return dict(raw)


def comment_of(text: str, key: str) -> str:
    """The comment on the first line with that key."""
    line = next(line for line in text.splitlines() if line.strip().startswith(f"{key}:"))
    return line.partition("  # ")[2]


def test_a_whole_draft_reads_as_a_user_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "04-decimal-comma.csv"
    assert (
        draft(tmp_path, DECIMAL_COMMA, path.name)
        == f"""\
# spark-submit jobs/ingest.py --domain PATH-OF-THIS-FILE --dry-run 20
# drafted from the first 7 records of "{path}": fill in what says TODO, check what says guessed
name: decimal_comma
zone: UTC  # TODO the IANA zone of the log's clock, e.g. Europe/Berlin: its times name none
languages: [en]
source:
  name: decimal_comma
  path: "{path}"
  format: csv
  delimiter: ";"
  missing: ["n. v."]  # guessed: "n. v." in "preis"
  decimal: ","
  thousands: "."
columns:
  user_id: kunde
  item_id: artikel
  event_type: art
  event_time: zeit
  quantity: menge
  price: preis
time_formats: ["yyyy-MM-dd HH:mm:ss"]
event_types:
  # seen in these records: "kauf" 7
  kauf:
    target: true
    template:
      en: "bought {{item_id}}[, price {{price_band}}]"
step_by: row
repeats: true  # {REPEATS}
"""
    )


@pytest.mark.parametrize(
    ("content", "columns", "formats"),
    [
        (
            DAY_MONTH,
            {"user_id": "customer", "item_id": "product", "event_type": "action", "event_time": "`when`"},
            ["dd/MM/yyyy HH:mm"],
        ),
        (
            LEADING_ZEROS,
            {"user_id": "member", "item_id": "plu", "event_type": "action", "event_time": "`time`"},
            ["yyyy-MM-dd HH:mm:ss"],
        ),
        (
            LOCAL_TIMES,
            {"user_id": "`user`", "item_id": "item", "event_type": "action", "event_time": "local_time"},
            ["yyyy-MM-dd HH:mm:ss"],
        ),
    ],
    ids=["day-month", "leading-zeros", "local-times"],
)
def test_columns_are_found_by_their_names(tmp_path: Path, content: str, columns: dict[str, str], formats: list[str]) -> None:
    domain = loaded(text := draft(tmp_path, content))
    assert (domain["columns"], domain["time_formats"]) == (columns, formats)
    assert domain["zone"] == "UTC"
    assert comment_of(text, "zone").startswith("TODO the IANA zone")


def test_what_is_bought_is_the_target_and_each_type_has_its_verb(tmp_path: Path) -> None:
    domain = loaded(text := draft(tmp_path, LEADING_ZEROS))
    assert domain["event_types"] == {
        "purchase": {"target": True, "template": {"en": "bought {item_id}"}},
        "view": {"template": {"en": "viewed {item_id}"}},
    }
    assert '# seen in these records: "purchase" 2, "view" 1' in text


def test_without_a_purchase_the_most_committed_type_is_guessed_to_be_the_target(tmp_path: Path) -> None:
    text = draft(
        tmp_path, "user,item,event,time\nu1,i1,View,2024-01-01\nu1,i2,add_to_cart,2024-01-02\nu1,i2,remove_from_cart,2024-01-03\n"
    )
    assert loaded(text)["event_types"] == {
        "View": {"template": {"en": "viewed {item_id}"}},
        "add_to_cart": {"target": True, "template": {"en": "put in the cart {item_id}"}},
        "remove_from_cart": {"weight": 0, "cancels": "add_to_cart", "template": {"en": "removed from the cart {item_id}"}},
    }
    assert comment_of(text, "target") == "guessed: the most committed one"


def test_types_that_are_codes_get_a_todo_and_stay_strings(tmp_path: Path) -> None:
    text = draft(
        tmp_path, "user,item,type,time\nu1,i1,1,2024-01-01\nu1,i2,1,2024-01-02\nu1,i2,null,2024-01-03\nu1,i2,4,2024-01-03\n"
    )
    domain = loaded(text)
    assert domain["event_types"] == {
        "1": {"template": {"en": "{item_id}"}},
        "4": {"target": True, "template": {"en": "{item_id}"}},
    }
    assert domain["source"]["missing"] == ["null"]
    assert text.count("# TODO a sentence for it") == 2


def test_invoices_are_purchases_and_returns_with_titles_and_baskets(tmp_path: Path) -> None:
    content = (
        "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country\n"
        '536365,85123A,"WHITE, HEART",6,12/1/10 8:26,2.55,17850,UK\nC536379,D,Discount,-1,12/13/10 9:41,27.5,,UK\n'
    )
    domain = loaded(text := draft(tmp_path, content))
    assert domain["columns"] == {
        "user_id": "`Customer ID`",
        "item_id": "StockCode",
        "event_type": "CASE WHEN Quantity LIKE '-%' THEN 'return' ELSE 'purchase' END",
        "event_time": "InvoiceDate",
        "step_key": "Invoice",
        "quantity": "ltrim('-', Quantity)",
        "price": "Price",
    }
    assert domain["time_formats"] == ["M/d/yy H:mm"]
    assert domain["items"] == {"columns": {"title": "Description"}}
    assert domain["event_types"]["purchase"] == {"target": True, "template": {"en": "bought {title}[, price {price_band}]"}}
    assert domain["event_types"]["return"] == {
        "weight": 0,
        "cancels": "purchase",
        "template": {"en": "returned {title}[, price {price_band}]"},
    }
    assert (domain["step_by"], domain["repeats"], domain["anonymous"]) == ("step_key", True, "quarantine")
    assert '# not used: "Country"' in text


def test_orders_with_gaps_make_no_steps(tmp_path: Path) -> None:
    text = draft(
        tmp_path,
        "timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n1433221999827,111016,transaction,318965,4\n",
    )
    domain = loaded(text)
    assert (domain["step_by"], domain["time_formats"]) == ("row", ["epoch_millis"])
    assert "step_key" not in domain["columns"]
    assert comment_of(text, "step_by") == 'guessed: "transactionid" looks like an order, but is empty in some records'


def test_a_file_without_header_is_guessed_by_its_values(tmp_path: Path) -> None:
    domain = loaded(text := draft(tmp_path, MOVIELENS, "u.data"))
    assert domain["source"] == {
        "name": "u",
        "path": str(tmp_path / "u.data"),
        "format": "tsv",
        "header": False,
        "columns": ["c1", "c2", "c3", "c4"],
    }
    assert domain["columns"] == {"user_id": "c1", "item_id": "c2", "event_type": "'rate'", "event_time": "c4"}
    assert domain["time_formats"] == ["epoch_seconds"]
    assert comment_of(text, "user_id") == "guessed: the first column that could be ids"
    assert comment_of(text, "event_type") == 'guessed: no column says what was done, "c3" is a rating'
    domain = loaded(draft(tmp_path, TAOBAO, "UserBehavior.csv"))
    assert domain["columns"] == {"user_id": "c1", "item_id": "c2", "event_type": "c4", "event_time": "c5"}
    assert list(domain["event_types"]) == ["pv", "buy"]


def test_lists_of_ids_become_events_and_impressions(tmp_path: Path) -> None:
    domain = loaded(draft(tmp_path, MIND, "behaviors.tsv"))
    assert domain["columns"] == {"user_id": "c2", "event_time": "c3"}
    assert domain["time_formats"] == ["M/d/yyyy h:mm:ss a"]
    assert domain["lists"] == {
        "list_1": {"values": "split(c4, ' ')", "into": "events", "event_type": "click"},
        "list_2": {
            "values": "split(c5, ' ')",
            "into": "impressions",
            "event_type": "click",
            "item_id": "regexp_replace(value, '-[01]$', '')",
            "acted": "value LIKE '%-1'",
        },
    }


def test_json_lines_give_nested_fields_by_path(tmp_path: Path) -> None:
    content = (
        '{"user":{"id":"u1"},"item":{"sku":"7","name":"Mug"},"ts":1511544070123,"event":"buy","tags":["a"]}\n'
        '{"user":{"id":"u2"},"item":{"sku":"007","name":null},"ts":1511544070923,"event":"view"}\n'
    )
    domain = loaded(draft(tmp_path, content, "events.json"))
    assert domain["source"]["format"] == "json"
    assert domain["source"]["columns"] == ["user.id", "item.sku", "item.name", "ts", "event", "tags"]
    assert domain["columns"] == {"user_id": "`user.id`", "item_id": "`item.sku`", "event_type": "event", "event_time": "ts"}
    assert domain["items"] == {"columns": {"title": "`item.name`"}}
    assert domain["time_formats"] == ["epoch_millis"]


@pytest.mark.parametrize(("name", "pack"), [("log.csv.gz", gzip.compress), ("log.csv.bz2", bz2.compress)])
def test_packed_files_are_unpacked(tmp_path: Path, name: str, pack: Any) -> None:
    domain = loaded(draft(tmp_path, pack(DAY_MONTH.encode()), name))
    assert (domain["name"], domain["source"]["format"], domain["columns"]["user_id"]) == ("log", "csv", "customer")


def test_a_packed_file_without_suffix_is_to_be_renamed(tmp_path: Path) -> None:
    text = draft(tmp_path, gzip.compress(DAY_MONTH.encode()), "log.csv")
    assert loaded(text)["columns"]["user_id"] == "customer"
    assert comment_of(text, "path") == "TODO add .gz to the file's name: Spark unpacks by it"


@pytest.mark.parametrize("kind", ["parquet", "orc"])
def test_typed_files_are_read_as_spark_spells_them(tmp_path: Path, kind: str) -> None:
    table = pa.table(
        {
            "customer_id": [7, 8],
            "product_id": ["007", "7"],
            "event_time": [datetime.datetime(2024, 5, 1, 10), datetime.datetime(2024, 5, 2, 11)],
            "price": [2.5, None],
        }
    )
    (parquet if kind == "parquet" else orc).write_table(table, str(tmp_path / f"log.{kind}"))
    domain = loaded(suggest(str(tmp_path / f"log.{kind}")))
    assert domain["source"]["format"] == kind
    assert domain["columns"] == {
        "user_id": "customer_id",
        "item_id": "product_id",
        "event_type": "'purchase'",
        "event_time": "event_time",
        "price": "price",
    }
    assert domain["time_formats"] == ["yyyy-MM-dd HH:mm:ss"]


def test_typed_times_with_a_zone_are_utc(tmp_path: Path) -> None:
    times = pa.array([datetime.datetime(2024, 5, 1, 10)], pa.timestamp("us", "Europe/Berlin"))
    parquet.write_table(pa.table({"user": ["u"], "item": ["i"], "time": times}), tmp_path / "log.parquet")
    text = suggest(str(tmp_path / "log.parquet"))
    assert (loaded(text)["time_formats"], comment_of(text, "zone")) == (
        ["yyyy-MM-dd HH:mm:ss"],
        "guessed: the log's times are UTC",
    )


CHINESE = "用户,商品,行为,时间,价格\n1,a,购买,2024-03-01 10:00,3.50\n2,b,浏览,2024-03-01 11:00,3.50\n"


@pytest.mark.parametrize("charset", ["gbk", "utf-16", "utf-8", "utf-8-sig"])
def test_chinese_headers_are_read_in_their_charset(tmp_path: Path, charset: str) -> None:
    domain = loaded(draft(tmp_path, CHINESE.encode(charset)))
    assert domain["source"].get("charset", "utf-8") == charset.removesuffix("-sig")
    assert domain["columns"] == {
        "user_id": "`用户`",
        "item_id": "`商品`",
        "event_type": "`行为`",
        "event_time": "`时间`",
        "price": "`价格`",
    }
    assert domain["event_types"]["购买"] == {"target": True, "template": {"en": "bought {item_id}[, price {price_band}]"}}


def test_latin_letters_are_not_taken_for_chinese(tmp_path: Path) -> None:
    content = "Kunde;Artikel;Datum;Größe\nMüller;Käse;01.03.2024;3\nMöller;Brötchen;02.03.2024;4\n"
    domain = loaded(draft(tmp_path, content.encode("iso-8859-1")))
    assert (domain["source"]["charset"], domain["source"]["delimiter"], domain["time_formats"]) == (
        "iso-8859-1",
        ";",
        ["dd.MM.yyyy"],
    )


def test_a_cut_off_file_is_judged_by_its_whole_lines(tmp_path: Path) -> None:
    row = "u1,i1,buy,2024-01-01 10:00:00,größer\n"
    domain = loaded(text := draft(tmp_path, "user,item,action,time,note\n" + row * 5_000))
    assert "from the first 200 records" in text
    assert ("charset" in domain["source"], domain["columns"]["event_time"]) == (False, "`time`")


def test_quotes_over_several_lines_and_quotes_that_mean_nothing(tmp_path: Path) -> None:
    reviews = (
        'user,item,review,time\nu1,i1,"good,\nvery good",2024-01-01\nu2,i2,"bad, ""x""\nno",2024-01-02\nu2,i3,ok,2024-01-03\n'
    )
    assert loaded(draft(tmp_path, reviews))["source"]["multiline"] is True
    inches = 'user\titem\ttitle\ttime\nu1\ti1\t"5 inch\t2024-01-01\nu1\ti2\tpipe\t2024-01-02\nu1\ti3\t"6 inch\t2024-01-02\n'
    source = loaded(draft(tmp_path, inches))["source"]
    assert (source["format"], source["quote"]) == ("tsv", None)
    single = "user,item,title,time\n'u1','i1','a, b','2024-01-01'\n'u2','i2','c','2024-01-02'\n"
    assert loaded(draft(tmp_path, single))["source"]["quote"] == "'"


def test_the_first_file_of_a_folder_or_glob_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "logs" / "shop=007").mkdir(parents=True)
    (tmp_path / "logs" / "_SUCCESS").write_text("x")
    (tmp_path / "logs" / "a.csv").write_text("")
    (tmp_path / "logs" / "shop=007" / "b.csv").write_text(DAY_MONTH)
    for path in (tmp_path / "logs", tmp_path / "logs" / "*"):
        domain = loaded(suggest(str(path)))
        assert (domain["name"], domain["source"]["path"], domain["columns"]["user_id"]) == ("logs", str(path), "customer")


def test_what_cannot_be_guessed_is_a_todo_and_the_draft_still_loads(tmp_path: Path) -> None:
    text = draft(tmp_path, "colour,weight\nred,3\nblue,4\n")
    domain = loaded(text)
    assert domain["columns"] == {
        "user_id": "TODO_USER_ID",
        "item_id": "TODO_ITEM_ID",
        "event_type": "'view'",
        "event_time": "TODO_EVENT_TIME",
    }
    assert comment_of(text, "user_id") == "TODO the column that says who acted"
    assert comment_of(text, "time_formats") == "TODO Spark's pattern of the time column"
    text = draft(tmp_path, "user,item,time\nu1,i1,Friday\n")
    assert loaded(text)["time_formats"] == ["TODO_PATTERN"]
    assert comment_of(text, "time_formats").endswith('whose values are such as "Friday"')
    assert loaded(draft(tmp_path, "user,item,action,time\n"))["event_types"].keys() == {"TODO_EVENT_TYPE"}


def test_day_and_month_that_could_be_either_are_a_todo(tmp_path: Path) -> None:
    text = draft(tmp_path, "user,item,day\nu1,i1,03/08/2024\nu2,i1,05/08/2024\n")
    assert loaded(text)["time_formats"] == ["dd/MM/yyyy", "MM/dd/yyyy"]
    assert comment_of(text, "time_formats") == "TODO keep the true one: these records can be read as either"


def test_a_number_that_could_be_a_thousand_or_a_fraction_is_a_todo(tmp_path: Path) -> None:
    text = draft(tmp_path, "user;item;day;price\nu1;i1;2024-03-08;1.500\nu2;i1;2024-03-09;12\n")
    assert loaded(text)["source"]["decimal"] == "."
    assert comment_of(text, "decimal") == 'TODO check: "1.500" is read as 1.5'


@pytest.mark.parametrize(
    ("values", "patterns"),
    [
        (["2024-03-01T10:00:00Z", "2024-03-01T10:00:00+02:00"], ("yyyy-MM-dd'T'HH:mm:ssXXX",)),
        (["2024-03-01T10:00:00.123Z", "2024-03-01T10:00:00Z"], ("yyyy-MM-dd'T'HH:mm:ss[.SSS]XXX",)),
        (["2024-03-01 10:00:00.123456+0200"], ("yyyy-MM-dd HH:mm:ss.SSSSSSXX",)),
        (["2019-10-01 00:00:00 UTC"], ("yyyy-MM-dd HH:mm:ss 'UTC'",)),
        (["25.12.2024 10:30"], ("dd.MM.yyyy HH:mm",)),
        (["01.02.2024"], ("dd.MM.yyyy",)),
        (["12/25/2024 09:05:58 PM"], ("MM/dd/yyyy hh:mm:ss a",)),
        (["3/8/2024 9:05"], ("d/M/yyyy H:mm", "M/d/yyyy H:mm")),
        (["2024/3/1"], ("yyyy/M/d",)),
        (["20240301"], ("yyyyMMdd",)),
        (["20240301102030"], ("yyyyMMddHHmmss",)),
        (["881250949"], ("epoch_seconds",)),
        (["1511544070123"], ("epoch_millis",)),
        (["1511544070123456"], ("epoch_micros",)),
        (["2024-03-01"] * 4 + ["soon"], ("yyyy-MM-dd",)),
        (["44600062", "7"], ()),
        (["2024-13-01"], ()),
        (["2024-03-01 25:00"], ()),
        ([], ()),
    ],
)
def test_times_have_sparks_letters(values: list[str], patterns: tuple[str, ...]) -> None:
    assert time_patterns(values) == patterns


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        (["3,99", "12"], (",", "")),
        (["1.234,50", "3,99"], (",", ".")),
        (["1,234.50", "3.99"], (".", ",")),
        (["1,234"], (".", ",")),
        (["1 234,50", "3,99"], (",", " ")),
        (["7", "1.25"], (".", "")),
        ([], (".", "")),
    ],
)
def test_separators_are_those_that_read_most_numbers(numbers: list[str], found: tuple[str, str]) -> None:
    assert separators(numbers) == found


def test_words_from_data_stay_strings() -> None:
    for text in (
        "yes",
        "null",
        "1_0",
        "2024-01-01",
        "a: b",
        "#x",
        "a\nb",
        "\u2028",
        "\U000e0001",
        "\ufeff",
        '"',
        "\\",
        "~",
        "ok",
    ):
        assert yaml.safe_load(f"{scalar(text)}: {quoted(text)}  # {quoted(text)}") == {text: text}
    assert [sql(name) for name in ("price", "order", "Customer ID", "user.id", "a`b", "用户", "1st")] == [
        "price",
        "`order`",
        "`Customer ID`",
        "`user.id`",
        "`a``b`",
        "`用户`",
        "`1st`",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", b"", r"empty.csv' is empty.*expected records; deliver"),
        ("blank.csv", b" \n\n", r"blank.csv' is empty: there is no record.*deliver it again"),
        ("empty.csv.gz", gzip.compress(b"", mtime=0), r"is empty: there is no record"),
        (
            "cut.csv.gz",
            gzip.compress(DAY_MONTH.encode(), mtime=0)[:-12],
            r"is damaged .*expected one that can be read; deliver it again",
        ),
        ("plain.csv.gz", DAY_MONTH.encode(), r"is not packed as .gz says; rename it"),
        (
            "image.png",
            b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
            r"is binary of an unknown kind .*expected text, Parquet or ORC; export",
        ),
        ("log.parquet", b"PAR1 and nothing more", r"is damaged .*deliver it again"),
        ("log.csv.xz", b"\xfd7zXZ\x00\x00", r"is packed with xz; expected gzip, bzip2"),
        ("log.avro", b"Obj\x01\x04", r"is Avro; .*write the YAML by hand"),
        ("array.json", b'[{"user": 1},\n{"user": 2}]', r"no line of it is an object; expected one on each; rewrite it: jq"),
    ],
)
def test_files_that_cannot_be_looked_into_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        draft(tmp_path, content, name)


def test_missing_paths_archives_and_remote_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.csv' does not exist .*expected a file, a folder or a glob; correct it"):
        suggest(str(tmp_path / "none.csv"))
    with pytest.raises(InputError, match=r"is empty: no file in it has content"):
        suggest(str(tmp_path))
    with pytest.raises(InputError, match=r"'s3://shop/log.csv' is not local; .*copy a piece"):
        suggest("s3://shop/log.csv")
    with zipfile.ZipFile(tmp_path / "log.zip", "w") as packed:
        packed.writestr("log.csv", DAY_MONTH)
    with pytest.raises(InputError, match=r"log.zip' is a zip archive or a spreadsheet; expected text.*unpack it"):
        suggest(str(tmp_path / "log.zip"))


WORDS = st.sampled_from(
    ["user", "item", "time", "view", "buy", "null", "3,99", "1.000", "2024-03-01", "03/04/2024", "1511544070", "价格"]
)
CELLS = st.one_of(WORDS, st.text(st.characters(exclude_categories=["Cs"]), max_size=6))


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.lists(CELLS, min_size=1, max_size=5), min_size=1, max_size=6), mark=st.sampled_from(",;\t|"))
def test_whatever_comes_in_the_draft_loads_or_one_error_says_why(rows: list[list[str]], mark: str) -> None:
    with TemporaryDirectory() as folder:
        try:
            text = draft(Path(folder), "\n".join(mark.join(row) for row in rows))
        except InputError:
            return
        loaded(text)
