"""A page of 500 cells, of which everything was measured, is light enough to send."""

import importlib.util

import pytest


@pytest.mark.slow
def test_a_page_of_500_cells_stays_below_10_megabytes(repository, tmp_path):
    file = repository / "benchmarks/page.py"
    spec = importlib.util.spec_from_file_location("page_benchmark", file)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    arguments = benchmark.made(tmp_path)
    benchmark.report(**arguments)
    page = arguments["output"]
    assert len((tmp_path / "summary.csv").read_text().splitlines()) == 501
    assert len(list((tmp_path / "figures").glob("*.svg"))) > 200
    assert page.stat().st_size < 10_000_000
