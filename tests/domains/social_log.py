"""A social network's log that is made, not collected: users, authors, posts and what they do are invented from a seed."""

import json
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

START = datetime(2024, 3, 1)
TOPICS = {"cooking": ("@ana", "@bo"), "cycling": ("@dee", "@eli"), "做饭": ("@李雷",), "骑行": ("@韩梅",)}
SENTENCES = {"cooking": "noodles with peas", "cycling": "over the pass", "做饭": "豆腐炒青菜", "骑行": "沿着河骑到海边"}
ACTIONS = ("like", "like", "like", "comment", "share", "favourite", "favorite")


def record(time: datetime, user: str | None, action: str, post: dict[str, str] | None, author: str | None) -> dict[str, Any]:
    return {"time": f"{time:%Y-%m-%dT%H:%M:%SZ}", "user": user, "action": action, "post": post, "author": author}


def made_records(seed: int, users: int, posts: int, days: int) -> Iterator[dict[str, Any]]:
    """Each user keeps to one topic mostly, answers posts of the last days once each and follows an author now and then."""
    rng = random.Random(seed)
    topics = list(TOPICS)
    made = [made_post(n, topics[n % len(topics)]) for n in range(posts)]
    answered: set[tuple[int, int]] = set()
    for day in range(days):
        out = range(max(0, (day - 14) * posts // days), (day + 1) * posts // days)
        for user in range(users):
            own = [n for n in out if n % len(topics) == user % len(topics) or rng.random() < 0.1]
            for n in rng.sample(own, min(len(own), rng.choice((0, 1, 1, 2)))):
                time = START + timedelta(days=day, seconds=rng.randrange(86_400))
                if (user, n) not in answered:
                    answered.add((user, n))
                    yield record(time, f"u{user}", rng.choice(ACTIONS), *made[n])
                if rng.random() < 0.15:
                    yield record(time + timedelta(seconds=20), f"u{user}", "follow", None, made[n][1])


def made_post(n: int, topic: str) -> tuple[dict[str, str], str]:
    authors = TOPICS[topic]
    return {"id": f"p{n:03}", "text": f"{SENTENCES[topic]}, {n}", "topic": topic}, authors[n // len(TOPICS) % len(authors)]


def line(made: dict[str, Any]) -> str:
    return json.dumps(made, ensure_ascii=False)
