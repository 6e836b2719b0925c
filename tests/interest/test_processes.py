"""How an update is shared among processes; that they learn what one does is tested in steps/test_train_on_processes.py."""

import numpy as np
import pytest

from llmrec_pipeline.interest import processes


@pytest.mark.parametrize(("users", "size"), [(7, 3), (6, 2), (1, 4), (0, 2), (5, 1)])
def test_each_user_of_an_update_is_with_one_process(users: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, shares = np.arange(users) * 10, []
    for rank in range(size):
        monkeypatch.setattr(processes, "rank_and_size", lambda rank=rank: (rank, size))
        shares.append(processes.share(batch))
    assert sorted(np.concatenate(shares).tolist()) == batch.tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_alone_is_left_as_it_is() -> None:
    assert processes.rank_and_size() == (0, 1)
    assert processes.sum_over_processes(2.5) == 2.5
