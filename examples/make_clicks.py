"""Makes examples/clicks/log.csv.gz: a small click log, invented, in the columns of the REES46 shop data.

    python examples/make_clicks.py                 # writes the shipped file again, byte for byte
    python examples/make_clicks.py --seed 7 --out /tmp/other.csv.gz

What can be learnt from it: users keep to their categories, brands and price level; browsing within a session leads to a
cart and a purchase; a purchase leads to another category (a phone to headphones); supplies are bought again.
"""

import argparse
import csv
import gzip
import io
import math
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

SEED = 46
START = datetime(2019, 10, 1, tzinfo=UTC)
DAYS, USERS, PER_CATEGORY = 35, 300, 10
COLUMNS = ("event_time", "event_type", "product_id", "category_id", "category_code", "brand", "price", "user_id", "user_session")
BRANDS = (
    "arvela",
    "brightholm",
    "corvanta",
    "dalmur",
    "eskelin",
    "fenwick-lo",
    "gadro",
    "helmi",
    "ivanta",
    "jorvo",
    "kestrelle",
    "lumara",
)
SUPPLIES = {"grocery.coffee", "grocery.tea", "pet.food", "health.vitamins"}  # bought again and again
# category -> (price of a middling product, what its buyers look at next)
CATEGORIES = {
    "electronics.smartphone": (320.0, "electronics.audio.headphone"),
    "electronics.audio.headphone": (65.0, "electronics.audio.speaker"),
    "electronics.audio.speaker": (90.0, "electronics.smartphone"),
    "electronics.tablet": (240.0, "stationery.pen"),
    "computers.notebook": (680.0, "computers.peripherals.mouse"),
    "computers.peripherals.mouse": (24.0, "computers.peripherals.keyboard"),
    "computers.peripherals.keyboard": (48.0, "computers.notebook"),
    "appliances.kitchen.kettle": (32.0, "grocery.tea"),
    "appliances.kitchen.coffee_machine": (150.0, "grocery.coffee"),
    "appliances.environment.vacuum": (135.0, "furniture.living_room.rug"),
    "grocery.coffee": (11.0, "appliances.kitchen.coffee_machine"),
    "grocery.tea": (6.5, "appliances.kitchen.kettle"),
    "furniture.bedroom.bed": (290.0, "furniture.living_room.rug"),
    "furniture.living_room.rug": (75.0, "furniture.bedroom.bed"),
    "apparel.shoes.trainers": (58.0, "sport.bicycle"),
    "sport.bicycle": (410.0, "apparel.shoes.trainers"),
    "pet.food": (14.0, "pet.toys"),
    "pet.toys": (8.0, "pet.food"),
    "health.vitamins": (16.0, "apparel.shoes.trainers"),
    "stationery.pen": (3.5, "electronics.tablet"),
}

Row = list[str]


@dataclass(frozen=True)
class Product:
    """An item of the shop; `appeal` is how often it is looked at, relative to its category."""

    product_id: str
    category: str
    category_id: str
    category_code: str  # empty where the shop never filled it in
    brand: str  # empty likewise
    price: float
    appeal: float
    from_day: int


@dataclass
class User:
    """A customer: lasting tastes, and what the last purchases lead to."""

    user_id: str
    tastes: dict[str, float]
    brands: dict[str, float]
    level: float  # logarithm of how far above a category's middle price the user likes to buy
    sessions: int
    wanted: str | None = None  # category that the last purchase leads to
    bought: dict[str, int] = field(default_factory=dict)  # supplies, by product


def make_products(rng: Random) -> list[Product]:
    """Ten products a category, one in ten of them new in the log's course."""
    products = []
    for number, (category, (middle, _)) in enumerate(CATEGORIES.items()):
        for rank in range(PER_CATEGORY):
            products.append(
                Product(
                    product_id=str(1_004_000 + 131 * number + 7 * rank),
                    category=category,
                    category_id=str(2_053_013_550_000_000_000 + 7_919 * (number + 1)),
                    category_code="" if rng.random() < 0.06 else category,
                    brand="" if rng.random() < 0.08 else rng.choice(BRANDS),
                    price=round(middle * math.exp(0.45 * rng.gauss(0, 1)), 2),
                    appeal=1 / (1 + rank),
                    from_day=rng.randint(10, DAYS - 8) if rank == PER_CATEGORY - 1 else 0,
                )
            )
    return products


def make_users(rng: Random) -> list[User]:
    """Each user likes three categories and three brands; most come a few times, some often."""
    users = []
    for number in range(USERS):
        tastes = dict.fromkeys(CATEGORIES, 0.05)
        for weight, category in zip((4.0, 2.0, 1.0), rng.sample(list(CATEGORIES), 3), strict=True):
            tastes[category] = weight
        brands = dict.fromkeys(BRANDS, 1.0) | dict.fromkeys(rng.sample(BRANDS, 3), 6.0)
        sessions = min(18, 1 + int(rng.expovariate(1 / 3.9)))
        users.append(User(str(512_000_000 + 3_571 * number), tastes, brands, 0.4 * rng.gauss(0, 1), sessions))
    return users


def liking(user: User, product: Product) -> float:
    """How much more than chance this user looks at and buys this product."""
    distance = math.log(product.price / CATEGORIES[product.category][0]) - user.level
    return (
        product.appeal
        * user.brands.get(product.brand, 1.0)
        * math.exp(-(distance**2))
        * (1 + 12 * user.bought.get(product.product_id, 0))
    )


def make_session(rng: Random, user: User, products: list[Product], start: datetime) -> list[Row]:
    """Views within one category, and perhaps the cart and the purchase that they lead to."""
    category = (
        user.wanted if user.wanted and rng.random() < 0.6 else rng.choices(list(user.tastes), list(user.tastes.values()))[0]
    )
    day = (start - START).days
    shelf = [product for product in products if product.category == category and product.from_day <= day]
    weights = [liking(user, product) for product in shelf]
    viewed = rng.choices(shelf, weights, k=1 + min(11, int(rng.expovariate(1 / 3.2))))
    key, moment, rows = str(uuid.UUID(int=rng.getrandbits(128), version=4)), start, []

    def add(kind: str, product: Product) -> None:
        nonlocal moment
        price = product.price * (0.9 if day >= 21 and product.product_id.endswith("8") else 1.0)  # a sale in the last two weeks
        stamp = moment.strftime("%Y-%m-%d %H:%M:%S UTC")
        named = (product.product_id, product.category_id, product.category_code, product.brand)
        rows.append([stamp, kind, *named, f"{price:.2f}", user.user_id, key])
        moment += timedelta(seconds=5 + int(rng.expovariate(1 / 70)))

    for product in viewed:
        add("view", product)
    chosen = max(viewed, key=lambda product: (viewed.count(product), liking(user, product)))
    if rng.random() < 0.18 + 0.12 * min(3, viewed.count(chosen)):
        add("cart", chosen)
        if rng.random() < 0.7:
            add("purchase", chosen)
            remember(user, chosen)
    return rows


def remember(user: User, product: Product) -> None:
    """What a purchase changes: supplies are bought again, other things lead to another category."""
    if product.category in SUPPLIES:
        user.bought[product.product_id] = user.bought.get(product.product_id, 0) + 1
        user.tastes[product.category] += 3.0
    else:
        user.wanted = CATEGORIES[product.category][1]


def soil(rng: Random, rows: list[Row]) -> list[Row]:
    """Adds what real logs hold: unknown event types, prices of zero, lines twice, rows without a user."""
    kind, price, user = COLUMNS.index("event_type"), COLUMNS.index("price"), COLUMNS.index("user_id")
    spots = rng.sample(range(len(rows)), 60)
    for spot in spots[:15]:
        rows[spot][kind] = "remove_from_cart"
    for spot in spots[15:35]:
        rows[spot][price] = "0.00"
    for spot in spots[35:40]:
        rows[spot][user] = ""
    return rows + [list(rows[spot]) for spot in spots[40:60]]


def make_rows(seed: int) -> list[Row]:
    """All rows of the log, in time order."""
    rng = Random(seed)
    products, rows = make_products(rng), []
    for user in make_users(rng):
        hour = rng.choice((8, 12, 18, 20))
        for day in sorted(rng.choices(range(DAYS), k=user.sessions)):
            start = START + timedelta(days=day, hours=hour, seconds=rng.randrange(3 * 3600))
            rows += make_session(rng, user, products, start)
    return sorted(soil(rng, rows))


def write(rows: list[Row], path: Path) -> None:
    """Writes the rows as gzipped CSV whose bytes hold neither time nor file name."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0))


def main(argv: list[str] | None = None) -> None:
    """Reads the command line and writes the file."""
    parser = argparse.ArgumentParser(description="Makes a small invented click log in REES46's columns.")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "clicks" / "log.csv.gz")
    chosen = parser.parse_args(argv)
    rows = make_rows(chosen.seed)
    write(rows, chosen.out)
    print(f"{chosen.out}: {len(rows)} rows, {chosen.out.stat().st_size} bytes, seed {chosen.seed}")


if __name__ == "__main__":
    main()
