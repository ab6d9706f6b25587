from rac.artifacts import write_json, write_text
from rac.report import preview

PATHS = ("compression", "metrics", "generation", "scores", "diagnostics", "losses", "runtime")


def cell(root, calibration, there, asked=PATHS):
    """A cell whose files `there` exist."""
    folder = root / calibration
    paths = {kind: str(folder / f"{kind}.json") if kind in asked else None for kind in PATHS}
    for kind in there:
        write_json(folder / f"{kind}.json", {})
    write_json(root / "model.json", {})
    names = {"model": "m", "calibration": calibration, "variant": "s", "eval": "e"}
    dense = {"dense_scores": None, "model_json": str(root / "model.json")}
    return names | paths | dense


def test_only_what_is_there_is_kept(tmp_path):
    cells = [cell(tmp_path, "a", PATHS), cell(tmp_path, "b", ["compression", "metrics"])]
    whole, cut = preview.so_far(cells)
    assert whole == cells[0]
    assert cut["compression"] == cells[1]["compression"] and cut["calibration"] == "b"
    assert not any(cut[kind] for kind in PATHS[1:])  # metrics go with generations and scores
    (tmp_path / "model.json").unlink()
    assert not any(preview.so_far(cells)[0][kind] for kind in PATHS)


def test_what_lacks_says_why_if_a_log_does(tmp_path):
    cells = [
        cell(tmp_path, "a", PATHS),
        cell(tmp_path, "b", ["compression"], PATHS[:4]),
        cell(tmp_path, "c", PATHS[:4]),
        cell(tmp_path, "d", []),
    ]
    logs = tmp_path / "logs/m"
    write_text(logs / "b/s/e/generate+1.log", "…\nrac: error: out of memory\n")  # a shard's
    write_text(logs / "c/s/runtime/runtime.log", "Traceback:\n  x\nValueError: no\n")
    write_text(logs / "c/s/diagnostics/others.log", "ValueError: of another run\n")
    write_text(logs / "d/s/compress.log", "compress: all well\n")
    found = {row["calibration"]: row for row in preview.lacking(cells, tmp_path / "logs")}
    assert set(found) == {"b", "c", "d"}
    assert (found["b"]["lacks"], found["b"]["reason"]) == (["metrics"], "out of memory")
    assert found["c"]["reason"] == "ValueError: no"
    assert found["d"]["lacks"] == ["compression", "metrics", "diagnostics", "losses", "runtime"]
    assert found["d"]["reason"] == ""
