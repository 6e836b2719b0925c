"""A draft of a domain's YAML from the first records of a log: what could be guessed, and TODOs for the rest. No Spark here."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from llmrec_pipeline.behaviour.sniffing import (
    Sample,
    is_number,
    mostly,
    normal,
    read_sample,
    separators,
    time_patterns,
)
from llmrec_pipeline.config import EPOCHS

NAMES = {  # what a column is -> names that it has, as `normal` spells them, likeliest first
    "event_time": "eventtime eventtimestamp timestamp datetime time ts when at createdat occurredat localtime invoicedate orderdate"
    " purchasedate transactiondate transactiontime eventdate date day zeitpunkt zeitstempel zeit datum bestelldatum"
    " unixreviewtime reviewtime 时间 时间戳 下单时间 日期",
    "user_id": "userid user uid visitorid visitor customerid customer customernumber custid memberid member clientid client guestid"
    " guest buyerid shopperid accountid account householdid householdkey household reviewerid kundeid kundennr kundennummer kunde"
    " nutzerid nutzer benutzerid benutzer 用户id 用户 用户编号 会员id 会员 客户id 客户 买家",
    "item_id": "itemid item productid product sku stockcode articleid article artikelid artikelnr artikelnummer artikel plu asin ean"
    " movieid movie trackid songid bookid isbn newsid titleid goodsid contentid produktid produkt 商品id 商品 商品编号 物品 产品id 产品",
    "event_type": "eventtype eventname event actiontype action behaviortype behaviourtype behavior behaviour activitytype activity"
    " interactiontype interaction type aktion ereignis vorgang art 行为类型 行为 事件类型 事件 操作 类型",
    "session_id": "sessionid session usersession visitid sitzungid sitzung 会话id 会话",
    "step_key": "orderid orderno ordernumber order invoiceno invoiceid invoice basketid basket transactionid receiptid receipt cartid"
    " bestellnummer bestellnr bestellung rechnungsnummer rechnung bonnr bon warenkorb 订单号 订单id 订单编号 订单",
    "quantity": "quantity qty units count menge anzahl stückzahl stück 数量 件数",
    "price": "unitprice price saleprice salesprice einzelpreis stückpreis preis amount cost betrag 单价 价格 金额",
    "rating": "rating score stars overall bewertung 评分",
    "title": "title producttitle itemtitle productname itemname articlename name titel bezeichnung label description 标题 商品名称 商品名",
    "brand": "brand brandname marke hersteller manufacturer 品牌",
    "category": "categorycode categoryname category productcategory department genres genre kategorie warengruppe categoryid 类目 类别 品类",
}
KNOWN = frozenset(name for names in NAMES.values() for name in names.split())
SENTENCES = {  # what was done, the most committed first -> words for it
    "bought": "purchase purchased buy bought order ordered sale transaction checkout pay payment kauf kaufen gekauft bestellung 购买 买 下单 支付",
    "put in the cart": "cart addtocart basket addtobasket warenkorb 加购 加购物车 加入购物车",
    "saved": "fav favorite favourite save saved wishlist bookmark collect merken 收藏",
    "liked": "like liked thumbsup 喜欢 点赞",
    "rated": "rate rated rating bewertung bewertet 评分",
    "reviewed": "review reviewed comment rezension 评论 评价",
    "shared": "share shared 分享",
    "played": "play played listen watch watched stream 播放",
    "read": "read reading 阅读",
    "clicked on": "click clicked clk klick tap 点击",
    "viewed": "view viewed viewitem detail pv pageview visit ansicht angesehen 浏览",
    "searched for": "search searched suche 搜索",
    "was shown": "impression impressions show shown exposure 曝光",
    "removed from the cart": "remove removed removefromcart 移除",
    "cancelled": "cancel cancelled canceled storno 取消",
    "returned": "return returned refund refunded retoure rückgabe 退货 退款",
    "disliked": "dislike disliked unlike 不喜欢",
}
TAKES_BACK = {
    "removed from the cart": "put in the cart",
    "cancelled": "bought",
    "returned": "bought",
    "disliked": "liked",
}  # what undoes -> what is undone
WORDS = {word: sentence for sentence, words in SENTENCES.items() for word in words.split()}
MISSING = "NULL|null|Null|NA|N/A|n/a|NaN|nan|None|none|n. v.|n.v.|k. A.|k.A.|\\N|-|--|?|(null)|<NA>|#N/A"
RESERVED = """all and any as at between both by case cast check column create cross current_date current_time current_timestamp
    current_user date distinct else end escape except exists false fetch filter for from full group having in inner intersect interval
    into is join lateral leading left like limit natural not null offset on only or order outer overlaps primary right select
    session_user some table then time timestamp to trailing true union unique unknown user using values when where with"""
IDS = re.compile(r"[\w:.-]*\d[\w:.-]*( [\w:.-]*\d[\w:.-]*)*")
EVENT_FIELDS = ("user_id", "item_id", "event_type", "event_time", "session_id", "step_key", "quantity", "price")
ASKED = {
    "user_id": "the column that says who acted",
    "item_id": "the column that says on what",
    "event_time": "the column that says when",
}
ACTED = ["  item_id: \"regexp_replace(value, '-[01]$', '')\"", "  acted: \"value LIKE '%-1'\""]  # of elements such as N7-1
MOST_TYPES = 20  # distinct values of a column of types
HEAD = """\
# spark-submit jobs/ingest.py --domain PATH-OF-THIS-FILE --dry-run 20
# drafted from the first {n} records of {path}: fill in what says TODO, check what says guessed"""
Columns = dict[str, list[str]]  # a column's values, without missing ones
Roles = dict[str, tuple[str, str]]  # what a column is -> the column, and why it is taken for that where its name leaves a doubt


@dataclass(frozen=True)
class Guess:
    """What was guessed of a log.

    Attributes:
        missing: words for 'no value' -> columns where they stand.
        patterns: of the time column; none where they are unknown, two where day and month could be either.
        lists: columns of ids with spaces between them -> True where each says whether it was acted on (`N1-1 N2-0`).
        types: event types -> how often they were seen; 0 where no column holds them.
    """

    sample: Sample
    missing: dict[str, list[str]]
    columns: Columns
    roles: Roles
    patterns: tuple[str, ...]
    lists: dict[str, bool]
    types: dict[str, int]

    def of(self, role: str) -> list[str]:
        """Values of the column that has a role; none where there is no such column."""
        return self.columns[self.roles[role][0]] if role in self.roles else []

    def is_whole(self, role: str) -> bool:
        return role in self.roles and len(self.of(role)) == len(self.sample.rows)


def suggest(path: str) -> str:
    """The draft of a domain's YAML for a log; it says TODO where the user must fill in, and guessed where a look is wise.

    Args:
        path: a local file, folder or glob; its first file's first 200 records, or 64 KiB, are looked at.

    Raises:
        InputError: nothing lies there, or it is of a kind that a draft does not look into.
    """
    guess, name = _guess(read_sample(path, KNOWN)), _name(path)
    lines = [
        HEAD.format(n=len(guess.sample.rows), path=quoted(path)),
        _line("name", name),
        _zone(guess),
        _line("languages", "[en]"),
        *_section("source", [_line("name", name), *_source(guess, path), *_separators(guess)]),
        *_section("columns", _columns(guess)),
        _time_formats(guess),
        *_section("items", _section("columns", _items(guess))),
        *_section("lists", _lists(guess)),
        *_section("event_types", _event_types(guess)),
        *_steps(guess),
    ]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A YAML scalar in double quotes: it stays a string, on one line, whatever it holds."""
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in json.dumps(text, ensure_ascii=False))


def scalar(text: str) -> str:
    """A YAML scalar that stays a string: plain where it does so, in quotes elsewhere."""
    return text if re.fullmatch(r"[A-Za-z][\w./-]*", text, re.ASCII) and yaml.safe_load(text) == text else quoted(text)


def sql(column: str) -> str:
    """A raw column in Spark SQL."""
    plain = re.fullmatch(r"[A-Za-z_]\w*", column, re.ASCII) and column.lower() not in RESERVED.split()
    return column if plain else "`" + column.replace("`", "``") + "`"


def _name(path: str) -> str:
    """A domain name from the file's name, or from the folder's where that is a glob."""
    stem = next((part for part in reversed(Path(path).parts) if not set("*?[") & set(part)), "")
    return re.sub(r"[^a-z0-9]+", "_", stem.split(".")[0].lower()).strip("_").lstrip("0123456789_") or "log"


def _guess(sample: Sample) -> Guess:
    missing = _missing(sample)
    columns = {name: _filled(sample.values(name), missing) for name in sample.columns}
    roles = _roles(sample, columns)
    lists = {} if "item_id" in roles else _id_lists(_free(columns, roles))
    patterns = time_patterns(columns[roles["event_time"][0]]) if "event_time" in roles else ()
    return Guess(sample, missing, columns, roles, patterns, lists, _types_of(columns, roles, lists))


def _filled(values: list[str], missing: Iterable[str]) -> list[str]:
    return [value for value in values if value.strip() not in {"", *missing}]


def _missing(sample: Sample) -> dict[str, list[str]]:
    """Words for 'no value' that stand among numbers or times, or often."""
    found: dict[str, list[str]] = {}
    for name in sample.columns:
        words = Counter(value.strip() for value in sample.values(name) if value.strip() in MISSING.split("|"))
        rest = _filled(sample.values(name), MISSING.split("|"))
        typed = bool(words) and (mostly(is_number, rest) or bool(time_patterns(rest)))
        for word, count in words.items():
            if typed or (count > 1 and count * 10 >= len(sample.rows)):
                found.setdefault(word, []).append(name)
    return found


def _roles(sample: Sample, columns: Columns) -> Roles:
    time = _time_column(columns)
    roles: Roles = {"event_time": time} if time else {}
    for role in list(NAMES)[1:]:
        free = _free(columns, roles)
        found = _named(role, free, FITS.get(role, bool)) or (_column_of_types(free) if role == "event_type" else None)
        roles |= {role: found} if found else {}
    return roles if sample.header else roles | _by_place(_free(columns, roles))


def _free(columns: Columns, roles: Roles) -> Columns:
    taken = {column for column, _ in roles.values()}
    return {name: values for name, values in columns.items() if name not in taken}


def _named(role: str, columns: Columns, fits: Callable[[list[str]], bool]) -> tuple[str, str] | None:
    """The column with the likeliest name whose values, if it has any, fit; one whose name only ends so is a guess."""
    good = [column for column, values in columns.items() if not values or fits(values)]
    for name in NAMES[role].split():
        for column in good:
            if normal(column) == name:
                return column, ""
    for name in NAMES[role].split():
        for column in good:
            if normal(column.split(".")[-1]) == name or (len(name) > 4 and normal(column).endswith(name)):
                return column, "guessed: from the end of its name"
    return None


def _time_column(columns: Columns) -> tuple[str, str] | None:
    """The column of a known name that holds times, else any that does (dates before plain integers), else one of a known name."""
    named = _named("event_time", columns, lambda values: bool(time_patterns(values)))
    if named and columns[named[0]]:
        return named
    patterns = {name: time_patterns(values) for name, values in columns.items() if not normal(name).endswith("id")}
    times = sorted((name for name, found in patterns.items() if found), key=lambda name: patterns[name][0] in EPOCHS)
    return (times[0], "guessed: its values are times") if times else _named("event_time", columns, bool)


def _column_of_types(columns: Columns) -> tuple[str, str] | None:
    for name, values in columns.items():
        if values and _are_types(values) and 2 * sum(bool(_sentence(kind)) for kind in _types(values)) >= len(_types(values)):
            return name, "guessed: its values are words for behaviour"
    return None


def _types(values: list[str]) -> dict[str, int]:
    """First spelling of each type -> its count, most frequent first; case makes no type of its own."""
    spelt: dict[str, str] = {}
    return dict(Counter(spelt.setdefault(value.strip().lower(), value.strip()) for value in values).most_common())


def _are_types(values: list[str]) -> bool:
    return len(_types(values)) <= MOST_TYPES and max(map(len, values)) <= 60


def _are_numbers(values: list[str]) -> bool:
    return mostly(is_number, values)


FITS = {"event_type": _are_types, "quantity": _are_numbers, "price": _are_numbers, "rating": _are_numbers}


def _by_place(columns: Columns) -> Roles:
    """User, item and rating of a file without names: the first two columns that could be ids, and one of small numbers."""
    ids = [name for name, values in columns.items() if values and not _is_counter(values) and not any(map(_is_no_id, values))]
    nth = {"user_id": "first", "item_id": "second"}
    roles = {role: (name, f"guessed: the {nth[role]} column that could be ids") for role, name in zip(nth, ids, strict=False)}
    rated = [name for name, values in _free(columns, roles).items() if values and all(map(_is_small, values))]
    return roles | ({"rating": (rated[0], "guessed: small numbers")} if rated else {})


def _is_counter(values: list[str]) -> bool:
    start = int(values[0]) if re.fullmatch("[0-9]{1,18}", values[0]) else -1
    return len(values) > 1 and values == [str(number) for number in range(start, start + len(values))]


def _is_no_id(value: str) -> bool:
    return bool(re.search(r"\s|^[+-]?\d*[.,]\d+$", value.strip()))


def _is_small(value: str) -> bool:
    return bool(re.fullmatch(r"[0-9](\.[0-9])?|10", value))


def _id_lists(columns: Columns) -> dict[str, bool]:
    listed = {
        name: [value.split() for value in values]
        for name, values in columns.items()
        if mostly(lambda value: bool(IDS.fullmatch(value)), values) and 2 * sum(" " in value for value in values) >= len(values)
    }
    return {name: all(id_[-2:] in ("-0", "-1") for ids in cells for id_ in ids) for name, cells in listed.items()}


def _types_of(columns: Columns, roles: Roles, lists: dict[str, bool]) -> dict[str, int]:
    if "event_type" in roles:
        return _types(columns[roles["event_type"][0]]) or {"TODO_EVENT_TYPE": 0}
    if lists:
        return {"click": 0}
    if "quantity" in roles and any(value.startswith("-") for value in columns[roles["quantity"][0]]):
        return {"purchase": 0, "return": 0}
    if {"price", "quantity", "step_key"} & set(roles):
        return {"purchase": 0}
    return {"rate": 0} if "rating" in roles else {"view": 0}


def _line(key: str, value: str, comment: str = "") -> str:
    return f"{key}: {value}  # {comment}" if comment else f"{key}: {value}"


def _section(key: str, lines: list[str]) -> list[str]:
    return [f"{key}:", *[f"  {line}" for line in lines]] if lines else []


def _flow(values: Iterable[str]) -> str:
    return f"[{', '.join(quoted(value) for value in values)}]"


def _zone(guess: Guess) -> str:
    pattern = guess.patterns[0] if guess.patterns else ""
    if pattern.endswith(("'UTC'", "'GMT'")) or guess.roles.get("event_time", ("",))[0] in guess.sample.instants:
        return _line("zone", "UTC", "guessed: the log's times are UTC")
    if pattern in EPOCHS or pattern.endswith("X"):
        return _line("zone", "UTC", "guessed: it only says where a day ends, the log's times are instants")
    return _line("zone", "UTC", "TODO the IANA zone of the log's clock, e.g. Europe/Berlin: its times name none")


def _source(guess: Guess, path: str) -> list[str]:
    sample, dialect = guess.sample, guess.sample.dialect
    rename = f"TODO add {sample.suffix} to the file's name: Spark unpacks by it" if sample.suffix else ""
    lines = [_line("path", scalar(path), rename), _line("format", sample.format)]
    if sample.charset != "utf-8":
        lines.append(_line("charset", sample.charset, "" if sample.charset == "utf-16" else "guessed: it is not utf-8"))
    if dialect and dialect.delimiter not in ",\t":
        lines.append(_line("delimiter", quoted(dialect.delimiter)))
    if dialect and dialect.quote != '"':
        lines.append(_line("quote", quoted(dialect.quote) if dialect.quote else "null", "guessed"))
    if dialect and dialect.multiline:
        lines.append(_line("multiline", "true"))
    if not sample.header:
        lines.append(_line("header", "false", "guessed: the first line looks like the others; rename the columns as you like"))
    if sample.format == "json" or not sample.header:
        lines.append(_line("columns", _flow(sample.columns)))
    if guess.missing:
        where = "; ".join(f"{quoted(word)} in {', '.join(map(quoted, names))}" for word, names in guess.missing.items())
        lines.append(_line("missing", _flow(guess.missing), f"guessed: {where}"))
    return lines


def _separators(guess: Guess) -> list[str]:
    numbers = [*guess.of("price"), *guess.of("quantity")]
    decimal, thousands = separators(numbers)
    marked, doubt = [number for number in numbers if re.search("[.,]", number)], ""
    if marked and all(re.fullmatch(r"[+-]?[0-9]{1,3}[.,][0-9]{3}", number) for number in marked):
        doubt = f"TODO check: {quoted(marked[0])} is read as {float(re.sub('[.,]', '' if thousands else '.', marked[0])):g}"
    lines = [_line("decimal", quoted(decimal), doubt)] if doubt or decimal != "." else []
    return lines + ([_line("thousands", quoted(thousands))] if thousands else [])


def _columns(guess: Guess) -> list[str]:
    lines = []
    for field in EVENT_FIELDS:
        column, comment = guess.roles.get(field, ("", ""))
        if field == "quantity" and "return" in _literals(guess):
            lines.append(_line(field, quoted(f"ltrim('-', {sql(column)})"), "guessed: a minus makes it a return"))
        elif column and (field != "step_key" or guess.is_whole(field)):
            lines.append(_line(field, scalar(sql(column)), comment))
        elif field == "event_type" and not guess.lists:
            rated = f", {quoted(guess.roles['rating'][0])} is a rating" if "rating" in guess.roles else ""
            lines.append(_line(field, quoted(_literal_sql(guess)), f"guessed: no column says what was done{rated}"))
        elif field in ASKED and not (field == "item_id" and guess.lists):
            lines.append(_line(field, f"TODO_{field.upper()}", f"TODO {ASKED[field]}"))
    used = {role: found for role, found in guess.roles.items() if role != "rating"}
    unused = [quoted(name) for name in _free(guess.columns, used) if name not in guess.lists]
    return [*lines, f"# not used: {', '.join(unused)}"] if unused else lines


def _literals(guess: Guess) -> list[str]:
    """Event types that no column holds."""
    return [] if "event_type" in guess.roles or guess.lists else list(guess.types)


def _literal_sql(guess: Guess) -> str:
    first, *others = _literals(guess)
    return f"CASE WHEN {sql(guess.roles['quantity'][0])} LIKE '-%' THEN 'return' ELSE '{first}' END" if others else f"'{first}'"


def _time_formats(guess: Guess) -> str:
    if guess.patterns:
        doubt = "TODO keep the true one: these records can be read as either" if len(guess.patterns) > 1 else ""
        return _line("time_formats", _flow(guess.patterns), doubt)
    example = f", whose values are such as {quoted(guess.of('event_time')[0])}" if guess.of("event_time") else ""
    return _line("time_formats", "[TODO_PATTERN]", f"TODO Spark's pattern of the time column{example}")


def _items(guess: Guess) -> list[str]:
    fields = {field: guess.roles[field] for field in ("title", "brand", "category") if field in guess.roles}
    return [_line(field, scalar(sql(column)), comment) for field, (column, comment) in fields.items()]


def _lists(guess: Guess) -> list[str]:
    lines = []
    for place, (name, acted) in enumerate(guess.lists.items(), start=1):
        values, kind = f"split({sql(name)}, ' ')", "impressions" if acted else "events"
        lines += _section(
            f"list_{place}", [_line("values", quoted(values), "guessed: ids with spaces between them"), f"into: {kind}"]
        )
        lines += ["  event_type: click", *(ACTED if acted else [])]
    return lines


def _event_types(guess: Guess) -> list[str]:
    meant = {kind: _sentence(kind) for kind in guess.types}
    bought = [kind for kind, sentence in meant.items() if sentence == "bought"]
    most = min(reversed(meant), key=lambda kind: _rank(meant[kind]))
    counts = ", ".join(f"{quoted(kind)} {count}" for kind, count in guess.types.items() if count)
    lines = [f"# seen in these records: {counts}"] if counts else []
    for kind, sentence in meant.items():
        ask = "TODO a sentence for it" if not sentence else ""
        lines += [f"{scalar(kind)}:"]
        if kind in bought or (not bought and kind == most):
            lines.append(_line("  target", "true", "" if bought else "guessed: the most committed one"))
        if sentence in TAKES_BACK:
            lines.append(_line("  weight", "0"))
            undone = [other for other, done in meant.items() if done == TAKES_BACK[sentence]]
            if len(undone) == 1:
                lines.append(_line("  cancels", scalar(undone[0]), "guessed"))
        lines += ["  template:", _line("    en", quoted(_template(guess.roles, sentence)), ask)]
    return lines


def _sentence(kind: str) -> str:
    """What was done, in words; empty where the word is not known. The longest known word within decides (`remove_cart`)."""
    word = normal(kind)
    within = max((known for known in WORDS if len(known) > 3 and known in word), key=len, default="")
    return WORDS.get(word) or WORDS.get(within, "")


def _rank(sentence: str) -> int:
    """0: the most committed; words that are not known come after those that are, and what takes back after all."""
    return [*(known for known in SENTENCES if known not in TAKES_BACK), "", *TAKES_BACK].index(sentence)


def _template(roles: Roles, sentence: str) -> str:
    name = "{title}" if "title" in roles else "{item_id}"
    optional = {"brand": "[ by {brand}]", "category": "[, {category}]", "price": "[, price {price_band}]"}
    return f"{sentence} {name}".strip() + "".join(text for field, text in optional.items() if field in roles)


def _steps(guess: Guess) -> list[str]:
    basket = guess.is_whole("step_key")
    order = guess.roles.get("step_key", ("", ""))[0]
    gaps = f"guessed: {quoted(order)} looks like an order, but is empty in some records" if order and not basket else ""
    lines = [_line("step_by", "step_key" if basket else "row", gaps)]
    if "user_id" in guess.roles and not guess.is_whole("user_id"):
        lines.append(_line("anonymous", "quarantine", "guessed: some records name no user; keep: they count for their items"))
    return [*lines, _line("repeats", "true", "guessed: what a user has had may be recommended again; false: it never is")]
