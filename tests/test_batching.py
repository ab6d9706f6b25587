import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rac.batching import batches, run_in_batches
from rac.errors import RacError

LENGTHS = st.lists(st.integers(1, 50), max_size=30)


@given(LENGTHS, st.integers(1, 120))
def test_batches_hold_everything_once_within_the_limit(lengths, limit):
    found = list(batches(lengths, limit))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        padded = max(lengths[i] for i in batch) * len(batch)
        assert padded <= limit or len(batch) == 1


class Device:
    """Stands for a GPU: `run` fails for a batch of more than `room` tokens, padding included."""

    def __init__(self, lengths, room):
        self.lengths, self.room, self.ran = lengths, room, []

    def run(self, batch):
        if len(batch) * max(self.lengths[i] for i in batch) > self.room:
            raise torch.OutOfMemoryError("no memory for this")
        self.ran.append(batch)
        return batch


@given(LENGTHS, st.integers(50, 300), st.integers(50, 300))
def test_batches_are_halved_until_memory_holds_them_and_each_sequence_is_run_once(
    lengths, limit, room
):
    device = Device(lengths, room)
    found = list(run_in_batches(device.run, lengths, limit))
    halvings = found[-1][1] if found else 0
    assert [batch for batch, _ in found] == device.ran
    assert sorted(i for batch in device.ran for i in batch) == list(range(len(lengths)))
    assert device.ran == sorted(device.ran, key=lambda batch: -lengths[batch[0]])
    if halvings == 0:
        assert device.ran == list(batches(lengths, limit))
    else:
        assert halvings <= 1 + limit.bit_length() and limit > room


def test_a_halved_batch_stays_so_and_standard_error_says_it(capsys):
    device = Device([8] * 12, 30)
    found = list(run_in_batches(device.run, device.lengths, 64))
    assert [(len(batch), halvings) for batch, halvings in found] == [(2, 2)] * 6  # not 8, nor 4
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"memory is short: {tokens} tokens at once from now on (no memory for this)"
        for tokens in (32, 16)
    ]


def test_memory_that_is_short_for_one_sequence_is_an_error():
    device = Device([9, 40, 3], 30)
    with pytest.raises(RacError, match="memory is short for a sequence of 40 tokens: no memory"):
        list(run_in_batches(device.run, device.lengths, 100))
    assert device.ran == []
