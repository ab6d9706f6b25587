from rac.artifacts import write_text
from rac.matrix import Cell
from rac.provenance import write_record
from rac.report import times

HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def test_stages_are_added_up_over_the_cells_of_the_run(tmp_path):
    def job(path, seconds, memory="5", cpu="1.5"):
        write_text(
            tmp_path / f"{path}.tsv", f"{HEAD}{seconds}\t0\t{memory}\t0\t0\t0\t0\t0\t0\t{cpu}\n"
        )

    job("tiny/benchmarks/compress/rac/half", 2, "300")
    job("tiny/benchmarks/compress/c4/half", 3, "-", "NA")
    job("tiny/benchmarks/compress/c4/other", 100)  # of another run
    job("tiny/benchmarks/generate/rac/half/sums", 7)
    job("tiny/benchmarks/generate/rac/half/sums+1", 8)  # a shard's
    for other in ("sums-1", "sums-4x"):  # evals of another run
        job(f"tiny/benchmarks/generate/rac/half/{other}", 100)
    job("tiny/benchmarks/losses/rac/half/heldout+text", 9)
    job("tiny/benchmarks/losses/rac/half/heldout+others", 100)
    job("tiny/benchmarks/model", 4)
    job("other/benchmarks/model", 100)
    job("benchmarks/dataset/sums", 1)
    names = {"sums", "heldout+text"}
    cells = {Cell("tiny", "rac", "half"): names, Cell("tiny", "c4", "half"): names}
    found = {row.pop("stage"): row for row in times.stage_times(tmp_path, ["tiny"], cells)}
    assert found["compress"] == {"jobs": 2, "wall": 5, "cpu": 1.5, "memory": 300}
    assert {stage: row["wall"] for stage, row in found.items()} == {
        "compress": 5,
        "generate": 15,
        "losses": 9,
        "model": 4,
        "dataset": 1,
    }


def test_machines_are_named_once(tmp_path):
    cells = []
    for name, cores in (("a", 2), ("b", 2), ("c", 8)):
        cells.append({"generations": str(tmp_path / name / "generations.jsonl.zst")})
        made = {"machine": {"cores": cores}, "versions": {"torch": "2"}}
        write_record(tmp_path / name / "generation.json", {"provenance": made})
    cells.append({"generations": str(tmp_path / "d/generations.jsonl.zst")})
    assert times.machines(cells) == [
        {"cores": "2", "torch": "2", "cells": "2"},
        {"cores": "8", "torch": "2", "cells": "1"},
    ]


def test_the_machine_is_named_as_linux_names_it(tmp_path):
    assert times.machine(tmp_path) == {}
    cpu = "processor\t: 0\nmodel name\t: Some CPU @ 2.0GHz\nmodel name\t: Some CPU @ 2.0GHz\n"
    write_text(tmp_path / "cpuinfo", cpu)
    assert times.machine(tmp_path) == {"processor": "Some CPU @ 2.0GHz"}
    write_text(tmp_path / "meminfo", "MemTotal:       16318480 kB\nMemFree:  5 kB\n")
    assert times.machine(tmp_path)["memory"] == "15.6 GiB"
