"""Files are whole or absent, whatever stops their writer."""

import errno
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rac import artifacts
from rac.errors import RacError

PATIENCE = 120  # seconds that a subprocess may take on a busy machine

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def everything_in(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}


def start(script: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen, word: str) -> None:
    """Wait until a process prints the line `word`."""
    assert process.stdout is not None
    assert process.stdout.readline() == f"{word}\n"


def kill(process: subprocess.Popen) -> None:
    """SIGKILL a process."""
    assert process.stdout is not None
    process.kill()
    assert process.wait(PATIENCE) == -signal.SIGKILL
    process.stdout.close()


def full_disk(*arguments: object, **keywords: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# Atomic writes


def test_a_file_is_written_with_its_folders_and_nothing_else(tmp_path):
    artifacts.write_text(tmp_path / "a" / "b" / "x.txt", "héllo")
    assert (tmp_path / "a/b/x.txt").read_text(encoding="utf-8") == "héllo"
    assert everything_in(tmp_path) == {"a", "a/b", "a/b/x.txt"}


def test_an_exception_leaves_the_old_file(tmp_path):
    file = tmp_path / "x"
    artifacts.write_text(file, "old")
    with pytest.raises(KeyError), artifacts.atomic_file(file) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert file.read_text() == "old"
    assert everything_in(tmp_path) == {"x"}


def test_an_exception_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "f"
    with artifacts.atomic_folder(folder) as temporary:
        (temporary / "old").write_text("old")
    with pytest.raises(KeyError), artifacts.atomic_folder(folder) as temporary:
        (temporary / "half").write_text("half")
        raise KeyError
    assert everything_in(tmp_path) == {"f", "f/old"}


def test_a_folder_replaces_the_old_one_whole(tmp_path):
    for name in ("first", "second"):
        with artifacts.atomic_folder(tmp_path / "f") as temporary:
            (temporary / "deep").mkdir()
            (temporary / "deep" / name).write_text(name)
    assert everything_in(tmp_path) == {"f", "f/deep", "f/deep/second"}


def test_files_can_be_read_by_others_as_the_umask_says(tmp_path):
    with artifacts.atomic_file(tmp_path / "x") as temporary:
        temporary.write_text("x")
        temporary.chmod(0o600)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~artifacts.UMASK


@pytest.mark.parametrize("call", ["os.fsync", "os.open", "pathlib.Path.write_text"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_is_one_line_and_leaves_the_old_file(
    tmp_path, monkeypatch, call, error
):
    def refuse(*arguments: object, **keywords: object) -> None:
        raise OSError(error, os.strerror(error))

    file = tmp_path / "x"
    artifacts.write_text(file, "old")
    said = f"^cannot write {re.escape(str(file))}: {os.strerror(error)}"
    with monkeypatch.context() as patched:
        patched.setattr(call, refuse)
        with pytest.raises(RacError, match=said):
            artifacts.write_text(file, "new")
    assert file.read_text() == "old"
    assert everything_in(tmp_path) == {"x"}


def test_a_kill_while_a_folder_is_replaced_leaves_no_half_of_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "f").mkdir()
    for name in ("one", "two"):
        (tmp_path / "f" / name).write_text("old")

    rmtree = shutil.rmtree

    def killed(path, **options):
        if any(path.glob("two")):  # the old one
            next(path.iterdir()).unlink()
            raise KeyboardInterrupt
        rmtree(path, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        with artifacts.atomic_folder(tmp_path / "f") as folder:
            (folder / "one").write_text("new")
    left = {path.name: path.read_text() for path in (tmp_path / "f").iterdir()}
    assert left == {"one": "new"}


def test_a_full_disk_leaves_the_old_folder(tmp_path, monkeypatch):
    with artifacts.atomic_folder(tmp_path / "f") as temporary:
        (temporary / "old").write_text("old")
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full_disk)
        with (
            pytest.raises(RacError, match="cannot write .*f: No space left"),
            artifacts.atomic_folder(tmp_path / "f") as temporary,
        ):
            (temporary / "new").write_text("new")
    assert everything_in(tmp_path) == {"f", "f/old"}


@pytest.mark.parametrize(
    "write",
    [
        "artifacts.write_jsonl(out, [{'x': 'x' * 100000}])",
        "artifacts.write_jsonl(out.with_suffix('.zst'), [{'x': os.urandom(100000).hex()}])",
        "with artifacts.atomic_file(out) as t: save_file({'x': numpy.zeros(100000)}, t)",
        "with artifacts.atomic_folder(out) as t: save_file({'x': numpy.zeros(100000)}, t / 'x')",
    ],
    ids=["jsonl", "zst", "safetensors", "folder"],
)
def test_what_the_system_refuses_in_the_middle_of_a_write_is_one_line(tmp_path, write):
    script = f"""
    import os, resource, signal, sys, numpy
    from pathlib import Path
    from safetensors.numpy import save_file
    from rac import artifacts
    from rac.errors import RacError
    out = Path(sys.argv[1])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    try:
        {write}
    except RacError as error:
        print(error)
    """
    process = start(script, tmp_path / "x.jsonl")
    printed, _ = process.communicate(timeout=PATIENCE)
    assert printed.startswith(f"cannot write {tmp_path / 'x'}")
    assert "File too large" in printed
    assert printed.count("\n") == 1
    assert everything_in(tmp_path) == set()


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file_and_the_next_write_tidies_up(tmp_path):
    file = tmp_path / "x[1].txt"
    artifacts.write_text(file, "old")
    script = """
    import sys, time
    from pathlib import Path
    from rac import artifacts
    file = Path(sys.argv[1])
    with artifacts.atomic_folder(file.with_name("folder")) as folder:
        (folder / "half").write_text("half")
        with artifacts.atomic_file(file) as temporary:
            temporary.write_text("half")
            print("writing", flush=True)
            time.sleep(600)
    """
    process = start(script, file)
    wait_for(process, "writing")
    kill(process)
    assert file.read_text() == "old"
    assert not (tmp_path / "folder").exists()
    assert len(everything_in(tmp_path)) == 4  # the old file, two leftovers, and what is in one
    artifacts.write_text(file, "new")
    with artifacts.atomic_folder(tmp_path / "folder"):
        pass
    assert everything_in(tmp_path) == {"x[1].txt", "folder"}


def test_the_temporary_file_of_a_living_process_is_left_alone(tmp_path):
    here, elsewhere = f".x.{artifacts.HOST}-{os.getppid()}.tmp", ".x.another_host-999999999.tmp"
    for name in (here, elsewhere):
        (tmp_path / name).write_text("being written")
    artifacts.write_text(tmp_path / "x", "x")
    assert everything_in(tmp_path) == {"x", here, elsewhere}


# JSON and JSON lines


@given(rows=st.lists(st.dictionaries(st.text(), json_values, max_size=3), max_size=4))
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.zst"])
def test_rows_come_back_as_they_were(tmp_path_factory, name, rows):
    file = tmp_path_factory.getbasetemp() / name
    artifacts.write_jsonl(file, rows)
    assert artifacts.read_jsonl(file) == rows


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.zst"])
def test_line_separators_inside_strings_do_not_cut_rows(tmp_path, name):
    rows = [{"text": "a\u2028b\u2029c\x85d\r\ne\x0bf"}, {"text": "ü 🙂 </script>"}, {}]
    artifacts.write_jsonl(tmp_path / name, rows)
    assert artifacts.read_jsonl(tmp_path / name) == rows


@pytest.mark.parametrize("left", [0, 3, 0.5, -1])
def test_a_cut_zstandard_file_is_one_line_that_names_it(tmp_path, left):
    file = tmp_path / "rows.jsonl.zst"
    artifacts.write_jsonl(file, [{"a": i} for i in range(500)])
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * left) if isinstance(left, float) else left])
    with pytest.raises(RacError, match=f"^{re.escape(str(file))} is damaged: .*delete it") as error:
        artifacts.read_jsonl(file)
    assert "\n" not in str(error.value)


def test_all_frames_of_a_zstandard_file_are_read(tmp_path):
    frames = [zstandard.compress(f'{{"a": {i}}}\n'.encode()) for i in range(3)]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    assert artifacts.read_jsonl(tmp_path / "a.jsonl.zst") == [{"a": 0}, {"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b'{"a": 1}\n{"a": ', "a.jsonl"),
        (b'{"a": 1}\n[1]\n', "a.jsonl"),
        (b"\xff\xfe\xff\n", "a.jsonl"),
        (b'{"a": 1}\n', "a.jsonl.zst"),
    ],
)
def test_what_is_not_json_lines_is_an_error(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RacError, match=f"{name} is damaged: "):
        artifacts.read_jsonl(tmp_path / name)


@pytest.mark.parametrize("read", [artifacts.read_json, artifacts.read_jsonl])
def test_a_missing_a_damaged_and_an_unreadable_file_are_one_line_each(tmp_path, read):
    with pytest.raises(RacError, match=r"absent is missing$"):
        read(tmp_path / "absent")
    (tmp_path / "damaged").write_text("{")
    with pytest.raises(RacError, match="damaged is damaged: "):
        read(tmp_path / "damaged")
    with pytest.raises(RacError, match="cannot read .*: Is a directory"):
        read(tmp_path)


def test_an_input_that_cannot_be_read_is_not_said_to_be_the_output(tmp_path):
    for write, there in ((artifacts.atomic_file, "of"), (artifacts.atomic_folder, ".out.x")):
        (tmp_path / there).mkdir()
        with pytest.raises(RacError) as error, write(tmp_path / "out"):
            (tmp_path / "of" / "none").read_text()
        assert str(error.value) == f"cannot read {tmp_path}/of/none: No such file or directory"
    refused = pytest.raises(RacError, match=f"cannot write {tmp_path}/out: Is a directory")
    with refused, artifacts.atomic_folder(tmp_path / "out") as folder:
        folder.write_text("")


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_is_not_written_over_a_file_or_a_link(tmp_path, link):
    (tmp_path / "there").write_text("mine")
    output = tmp_path / "there"
    if link:
        output = tmp_path / "link"
        output.symlink_to(tmp_path)
    refused = pytest.raises(RacError, match="is a file or a link where a folder is to be written")
    with refused, artifacts.atomic_folder(output):
        pass
    assert (tmp_path / "there").read_text() == "mine"
    assert {file.name for file in tmp_path.iterdir()} == {"there", *(["link"] if link else [])}


def test_nested_brackets_are_no_json(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(RacError, match="a.json is damaged"):
        artifacts.read_json(tmp_path / "a.json")


def test_files_are_hashed_each_by_its_bytes_in_their_order(tmp_path):
    files = [tmp_path / name for name in "cab"]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * (3_000_000 >> 4 * number))
    expected = [(file, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
    assert list(artifacts.sha256_files(iter(files))) == expected
    assert list(artifacts.sha256_files([])) == []
    hashed = artifacts.sha256_files([*files, tmp_path / "none"])
    assert next(hashed) == expected[0]
    with pytest.raises(FileNotFoundError):
        list(hashed)


def test_files_are_hashed_a_few_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "processors", lambda: 2)
    asked: list[int] = []

    def files():
        for number in range(9):
            asked.append(number)
            (tmp_path / str(number)).touch()
            yield tmp_path / str(number)

    hashed = artifacts.sha256_files(files())
    for number in range(9):
        assert next(hashed)[0].name == str(number)
        assert asked[-1] == min(number + 2, 8)


def test_json_hash_hangs_on_values_and_not_on_the_order_of_keys():
    assert artifacts.sha256_json({"a": 1, "b": "é"}) == artifacts.sha256_json({"b": "é", "a": 1})
    assert artifacts.sha256_json({"a": 1}) != artifacts.sha256_json({"a": 1.5})


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """After a power cut there is the old file or the new one, whatever order the disk writes in."""
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor):
        done.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def renamed(path, target):
        done.append(("rename", Path(target).name))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    artifacts.write_json(tmp_path / "a.json", {})
    with artifacts.atomic_folder(tmp_path / "f") as folder:
        (folder / "one").write_text("1")
    temporary = [f".{name}.{artifacts.HOST}-{os.getpid()}.tmp" for name in ("a.json", "f")]
    assert done == [
        *(("fsync", temporary[0]), ("rename", "a.json"), ("fsync", tmp_path.name)),
        *(("fsync", "one"), ("fsync", temporary[1]), ("rename", "f"), ("fsync", tmp_path.name)),
    ]


# Parts


def squares(i: int) -> list[dict]:
    return [{"part": i, "square": i * i}]


def never(i: int) -> list[dict]:
    raise AssertionError(f"part {i} was computed again")


def up_to(count: int, compute):
    """What adds to the parts that are stored those that are missing of 0 … count-1."""

    def missing(stored: list[dict]):
        done = {row["part"] for row in stored}
        return (compute(i) for i in range(count) if i not in done)

    return missing


def test_parts_are_computed_once(tmp_path):
    work = tmp_path / "work"
    first = list(artifacts.parts(work, {"seed": 1}, up_to(3, squares)))
    assert first == [squares(0), squares(1), squares(2)]
    assert list(artifacts.parts(work, {"seed": 1}, up_to(3, never))) == first


def test_parts_stop_where_their_reader_does(tmp_path):
    computed: list[int] = []

    def compute(i: int) -> list[dict]:
        computed.append(i)
        return squares(i)

    next(artifacts.parts(tmp_path / "work", {}, up_to(3, compute)))
    assert computed == [0]


def test_parts_of_another_header_are_thrown_away_out_loud(tmp_path, capsys):
    work = tmp_path / "work"
    list(artifacts.parts(work, {"seed": 1}, up_to(2, squares)))
    assert capsys.readouterr().err == ""
    other = list(artifacts.parts(work, {"seed": 2}, up_to(2, lambda i: [{"part": -i}])))
    assert other == [[{"part": 0}], [{"part": -1}]]
    assert capsys.readouterr().err == (
        f"{work}: parts of another definition or code are thrown away\n"
    )


@pytest.mark.parametrize("content", [None, b"", b'{"seed": 2}'], ids=["lost", "empty", "another"])
def test_parts_are_known_without_their_header(tmp_path, capsys, content):
    work, header = tmp_path / "work", {"seed": 1}
    list(artifacts.parts(work, header, up_to(2, squares)))
    file = work / "header.json"
    whole = file.read_bytes()
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    as_shard = shutil.copytree(work, tmp_path / "shard")
    assert list(artifacts.parts(work, header, up_to(2, never))) == [squares(0), squares(1)]
    assert file.read_bytes() == whole and capsys.readouterr().err == ""
    rows = artifacts.parts(tmp_path / "whole", header, up_to(2, never), [as_shard])
    assert list(rows) == [squares(0), squares(1)]
    file.unlink()
    list(artifacts.parts(work, {"seed": 2}, up_to(1, squares)))
    assert "parts of another definition or code are thrown away" in capsys.readouterr().err
    assert len(list(work.glob("part-*"))) == 1


def test_a_part_that_fails_leaves_the_ones_before_it(tmp_path):
    def fails_at_two(i: int) -> list[dict]:
        if i == 2:
            raise RuntimeError
        return squares(i)

    with pytest.raises(RuntimeError):
        list(artifacts.parts(tmp_path, {}, up_to(3, fails_at_two)))
    made = [re.sub("-[0-9a-f]{16}[.]", ".", name) for name in sorted(everything_in(tmp_path))]
    assert made == [".lock", "header.json", "part-00000.jsonl.zst", "part-00001.jsonl.zst"]


def test_a_damaged_part_is_named_and_computed_again(tmp_path, capsys):
    list(artifacts.parts(tmp_path, {}, up_to(3, squares)))
    whole = everything_in(tmp_path)
    cut, _, flipped = sorted(tmp_path.glob("part-*"))
    cut.write_bytes(cut.read_bytes()[:-5])
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    rows = list(artifacts.parts(tmp_path, {}, up_to(3, squares)))
    assert rows == [squares(1), squares(0), squares(2)] and everything_in(tmp_path) == whole
    said = capsys.readouterr().err
    assert said.count("is damaged") == 2 and "made again now" in said
    assert list(artifacts.parts(tmp_path, {}, up_to(3, never))) == [squares(i) for i in range(3)]


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_never_reads_as_other_rows(tmp_path_factory, place, bit):
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl.zst"
    rows = [{"id": i, "text": "a thought " * i} for i in range(20)]
    artifacts.write_jsonl(file, rows)
    content = bytearray(file.read_bytes())
    content[place % len(content)] ^= 1 << bit
    file.write_bytes(content)
    try:
        found = artifacts.read_jsonl(file)
    except RacError as error:
        assert "is damaged" in str(error)
    else:
        assert found == rows  # a bit of the header that stands for nothing


def test_two_processes_do_not_work_on_the_same_parts(tmp_path):
    script = """
    import sys
    from pathlib import Path
    from rac.artifacts import parts
    rows = parts(Path(sys.argv[1]), {}, lambda stored: [[{"part": 0}], [{"part": 1}]])
    print(next(rows), flush=True)
    sys.stdin.read()
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path / "work"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout.readline()
    with pytest.raises(RacError, match="work: another job works on the same; end it first"):
        list(artifacts.parts(tmp_path / "work", {"other": 1}, up_to(2, squares)))
    other.kill()  # and its lock is gone
    other.communicate()
    found = list(artifacts.parts(tmp_path / "work", {}, up_to(2, squares)))
    assert [row["part"] for rows in found for row in rows] == [0, 1]


def test_shards_give_their_parts_first(tmp_path):
    header = {"seed": 1}
    for i in range(2):
        list(artifacts.parts(tmp_path / f"{i}.work", header, up_to(i + 1, squares)))
        (tmp_path / f"{i}.work").rename(tmp_path / f"{i}")
    rows = artifacts.parts(tmp_path / "w", header, up_to(3, squares), [tmp_path / "0"])
    assert list(rows) == [squares(0), squares(1), squares(2)]
    assert list(tmp_path.glob("w/part-00001-*"))  # what the shard did not hold
    with pytest.raises(RacError, match=r"1 is of another definition, code or input; delete it"):
        list(artifacts.parts(tmp_path / "v", {"seed": 2}, up_to(1, squares), [tmp_path / "1"]))
    with pytest.raises(RacError, match="absent is of another definition"):
        list(artifacts.parts(tmp_path / "v", header, up_to(1, squares), [tmp_path / "absent"]))


def test_a_part_that_was_deleted_is_the_only_one_that_is_computed_again(tmp_path):
    list(artifacts.parts(tmp_path, {}, up_to(3, squares)))
    before = everything_in(tmp_path)
    next(tmp_path.glob("part-00001-*")).unlink()
    again = list(artifacts.parts(tmp_path, {}, up_to(3, squares)))
    assert again == [squares(0), squares(2), squares(1)]
    assert everything_in(tmp_path) == before


def test_a_killed_stage_goes_on_after_its_last_whole_part(tmp_path):
    script = """
    import sys, time
    from pathlib import Path
    from rac import artifacts

    def rows():
        yield {"part": 2, "square": "half"}
        print("in part 2", flush=True)
        time.sleep(600)

    parts = ([{"part": i, "square": i * i}] if i < 2 else rows() for i in range(4))
    list(artifacts.parts(Path(sys.argv[1]), {"seed": 1}, lambda stored: parts))
    """
    work = tmp_path / "work"
    process = start(script, work)
    wait_for(process, "in part 2")
    kill(process)
    computed: list[int] = []

    def compute(i: int) -> list[dict]:
        computed.append(i)
        return squares(i)

    assert list(artifacts.parts(work, {"seed": 1}, up_to(4, compute))) == [
        squares(i) for i in range(4)
    ]
    assert computed == [2, 3]
    assert list(artifacts.parts(tmp_path / "unbroken", {"seed": 1}, up_to(4, squares))) == [
        squares(i) for i in range(4)
    ]
    unbroken, resumed = (
        {f.name: f.read_bytes() for f in folder.iterdir()}
        for folder in (tmp_path / "unbroken", work)
    )
    assert unbroken == resumed


# The lock


def test_a_lock_refuses_a_second_process_and_lets_go_when_its_holder_is_killed(tmp_path):
    script = """
    import sys, time
    from pathlib import Path
    from rac import artifacts
    artifacts.hold(Path(sys.argv[1]))
    print("held", flush=True)
    time.sleep(600)
    """
    lock = tmp_path / "results" / ".lock"
    holder = start(script, lock)
    wait_for(holder, "held")
    with pytest.raises(RacError, match=rf"another workflow .* \(process {holder.pid}\): wait"):
        artifacts.hold(lock)
    kill(holder)
    taker = start(script, lock)
    wait_for(taker, "held")
    assert lock.read_text() == str(taker.pid)
    kill(taker)


def test_a_lock_that_the_system_refuses_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", full_disk)
    with pytest.raises(RacError, match=r"^cannot lock .*: No space left"):
        artifacts.hold(tmp_path / ".lock")
