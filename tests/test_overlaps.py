import csv
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from rac import hessians, overlaps
from rac.compress import compress
from rac.definitions import Calibration
from rac.errors import RacError
from rac.models import weights
from rac.variants import Variant

MASKS = st.integers(1, 40).flatmap(
    lambda n: st.tuples(*[st.lists(st.booleans(), min_size=n, max_size=n)] * 2)
)


@given(MASKS)
def test_jaccard_against_sets(masks):
    a, b = ({i for i, kept in enumerate(mask) if kept} for mask in masks)
    expected = len(a & b) / len(a | b) if a | b else 1.0
    assert overlaps.jaccard(*map(torch.tensor, masks)) == expected


def test_rank_correlation_against_scipy():
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(7, 11, generator=generator)
    b = a + 0.3 * torch.rand(7, 11, generator=generator)
    found = overlaps.correlation(overlaps.ranked(a), overlaps.ranked(b))
    assert found == pytest.approx(spearmanr(a.flatten(), b.flatten()).statistic)


def test_a_large_layer_is_ranked_by_an_even_choice(monkeypatch):
    monkeypatch.setattr(overlaps, "SAMPLE", 4)
    assert overlaps.ranked(torch.arange(10.0)).tolist() == [0, 1, 2, 3]  # of 0, 3, 6 and 9


def test_every_layer_of_two_calibrations(tiny_model, write_sequences, tmp_path):
    definitions, folders, made = {}, {}, {}
    for seed, name in enumerate(("c4", "prompts")):
        file = write_sequences(tmp_path / name / "s", tiny_model, "text", [40, 30], seed=seed)
        folders[name] = tmp_path / f"hessians-{name}"
        hessians.accumulate(tiny_model, file, "float32", folders[name])
        definitions[name] = {"sum": {name: 1}}
        variant = Variant(solver="wanda", sparsity=[0.5])
        names = {"model": "tiny", "calibration": name, "variant": "wanda-0.5"}
        made[name] = tmp_path / f"checkpoint-{name}"
        arguments = (variant, "unstructured 0.5", names, made[name])
        compress(tiny_model, folders, Calibration(sum={name: 1}), *arguments)
    output = tmp_path / "overlaps.csv"
    spec = {name: str(path) for name, path in made.items()}
    sources = {name: str(path) for name, path in folders.items()}
    overlaps.write_overlaps(tiny_model, spec, definitions, sources, output)
    rows = list(csv.DictReader(output.open()))
    assert [int(row["layer"]) for row in rows] == list(range(14))
    assert {(row["calibration"], row["baseline"]) for row in rows} == {("prompts", "c4")}
    for row in (rows[0], rows[-1]):
        key = f"{row['name']}.weight"
        kept = [weights.read(weights.locate(path)[key], key) != 0 for path in made.values()]
        expected = (kept[0] & kept[1]).sum() / (kept[0] | kept[1]).sum()
        assert float(row["jaccard"]) == pytest.approx(expected.item(), rel=1e-5)
        assert 0 < float(row["rank_correlation"]) < 1
    for folder in (tiny_model, made["prompts"]):  # a byte of either is found before it is compared
        damaged = shutil.copytree(folder, tmp_path / "damaged", dirs_exist_ok=True)
        file = damaged / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        dense = damaged if folder == tiny_model else tiny_model
        others = spec if folder == tiny_model else spec | {"prompts": str(damaged)}
        with pytest.raises(RacError, match=r"damaged/model\.safetensors is not the file"):
            overlaps.write_overlaps(dense, others, definitions, sources, tmp_path / "again.csv")
        assert not (tmp_path / "again.csv").exists()
        shutil.rmtree(damaged)
