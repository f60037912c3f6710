"""Masks for prediction: functions of a row's tokens, with the statistics of dropout."""

import pytest
import torch

from polarity.data.oversample import mix64 as numpy_mix64
from polarity.model.heads import RowNoise, mix64, row_keys


def test_mix64_is_that_of_the_sampler() -> None:
    import numpy as np

    values = np.array([0, 1, 2**63 - 1, 12345678901234567], dtype=np.uint64)
    expected = numpy_mix64(values).view(np.int64)
    assert mix64(torch.from_numpy(values.view(np.int64).copy())).tolist() == expected.tolist()


def test_keys_are_independent_of_padding_and_batch() -> None:
    ids = torch.tensor([[5, 6, 7, 0], [5, 7, 6, 0], [8, 9, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0]])
    keys = row_keys(ids, mask)
    assert len(set(keys.tolist())) == 3  # the order of tokens counts
    wide = row_keys(torch.nn.functional.pad(ids, (0, 3), value=1), torch.nn.functional.pad(mask, (0, 3)))
    assert torch.equal(keys, wide)
    assert row_keys(ids[2:, :2], mask[2:, :2]).tolist() == keys[2:].tolist()


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9])
def test_keep_rate_and_scale(p: float) -> None:
    mask = RowNoise(torch.arange(400), 0).keep(250, p)
    assert mask.mean().item() == pytest.approx(1.0, abs=0.03)
    kept = mask > 0
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=0.01)
    assert kept.float().mean(0).std().item() < 0.05 and kept.float().mean(1).std().item() < 0.06  # no row, no column stands out
    torch.testing.assert_close(mask[kept].unique(), torch.tensor([1 / (1 - p)]))


def test_places_and_samples_have_masks_of_their_own() -> None:
    keys = torch.arange(50)
    one, two = RowNoise(keys, 0), RowNoise(keys, 1)
    masks = [noise.keep(100, 0.5) > 0 for noise in (one, one, two, two)]
    for i in range(4):
        for j in range(i):
            assert (masks[i] == masks[j]).float().mean().item() == pytest.approx(0.5, abs=0.03)
