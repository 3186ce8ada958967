"""Files are whole or absent, and a place that cannot be written is one line."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from secateur.errors import BadInput, OutputFailed
from secateur.storage import (
    check_disk_space,
    check_new_path,
    new_folder,
    os_errors_as_output_failed,
    write_json,
)


class TestWriteJson:
    def test_whole(self, tmp_path: Path) -> None:
        write_json(tmp_path / "a.json", {"text": "Grüße", "number": 0.1})
        assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"text": "Grüße", "number": 0.1}
        assert os.listdir(tmp_path) == ["a.json"]

    def test_replaces(self, tmp_path: Path) -> None:
        for number in (1, 2):
            write_json(tmp_path / "a.json", number)
        assert (tmp_path / "a.json").read_text() == "2\n"

    def test_a_failure_keeps_what_was_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_json(tmp_path / "a.json", 1)

        def full(self: Path, text: str, **_: object) -> int:
            self.write_bytes(text[:1].encode())
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(OutputFailed, match=r"a\.json: cannot be written: No space left on device"):
            write_json(tmp_path / "a.json", 2)
        assert (tmp_path / "a.json").read_text() == "1\n"
        assert os.listdir(tmp_path) == ["a.json"]

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(OutputFailed, match="No such file or directory"):
            write_json(tmp_path / "none" / "a.json", 1)


class TestNewFolder:
    def test_appears_whole(self, tmp_path: Path) -> None:
        with new_folder(tmp_path / "deep" / "out") as partial:
            (partial / "file").write_text("x")
            assert not (tmp_path / "deep" / "out").exists()
            assert partial.parent == tmp_path / "deep"  # the same disk: a rename, not a copy
        assert (tmp_path / "deep" / "out" / "file").read_text() == "x"
        assert os.listdir(tmp_path / "deep") == ["out"]

    @pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt(), SystemExit(3)])
    def test_vanishes_on_any_end(self, error: BaseException, tmp_path: Path) -> None:
        with pytest.raises(type(error)), new_folder(tmp_path / "out") as partial:
            (partial / "file").write_text("x")
            raise error
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error")])
    def test_failures_to_write_are_one_line(self, error: Exception, tmp_path: Path) -> None:
        with (
            pytest.raises(OutputFailed, match=f"{tmp_path / 'out'}: cannot be written"),
            new_folder(tmp_path / "out"),
        ):
            raise error
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("what", ["folder", "empty folder", "file"])
    def test_what_appeared_meanwhile_is_not_touched(self, what: str, tmp_path: Path) -> None:
        out = tmp_path / "out"
        with pytest.raises(OutputFailed, match="appeared"), new_folder(out):
            if what == "file":
                out.write_text("mine")
            else:
                out.mkdir()
            if what == "folder":
                (out / "file").write_text("mine")
        assert os.listdir(tmp_path) == ["out"]

    def test_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputFailed, match="cannot be written"), new_folder(tmp_path / "file" / "out"):
            raise AssertionError("not reached")

    def test_what_a_killed_process_left_is_removed(self, tmp_path: Path) -> None:
        """While that process lives, its folder is not touched."""
        script = (
            "import sys, time\nfrom pathlib import Path\nfrom secateur.storage import new_folder\n"
            "with new_folder(Path(sys.argv[1])) as partial:\n"
            "    (partial / 'file').write_text('x'); print(partial, flush=True); time.sleep(60)"
        )
        command = [sys.executable, "-c", script, str(tmp_path / "out")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                partial = Path(process.stdout.readline().strip())
                assert partial.parent == tmp_path
                with pytest.raises(ValueError, match="bug"), new_folder(tmp_path / "out"):
                    raise ValueError("bug")
                assert (partial / "file").read_text() == "x"
            finally:
                process.kill()
        assert os.listdir(tmp_path) == [partial.name]
        with new_folder(tmp_path / "out") as mine:
            assert os.listdir(tmp_path) == [mine.name]
        assert os.listdir(tmp_path) == ["out"]

    def test_only_its_own_folders_are_removed(self, tmp_path: Path) -> None:
        """Not those of another output, nor names that only look alike, nor what a link points at."""
        mine = [".out.partial-", ".out.partial-mine", ".out.partial-abcdefgh.txt", "x.out.partial-abcdefgh"]
        others = [".other.partial-abcdefgh", "xout.partial-abcdefgh"]
        for name in [*mine, *others, "target"]:
            (tmp_path / name).mkdir()
        (tmp_path / "target" / "file").write_text("x")
        (tmp_path / ".out.partial-linklink").symlink_to("target")
        (tmp_path / ".out.partial-filefile").write_text("x")
        before = set(os.listdir(tmp_path))
        (tmp_path / ".out.partial-abcdefgh").mkdir()
        with new_folder(tmp_path / "out"):
            pass
        assert set(os.listdir(tmp_path)) == before | {"out"}
        assert (tmp_path / "target" / "file").read_text() == "x"

    def test_without_locks_nothing_is_removed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_locks(descriptor: int, operation: int) -> None:
            raise OSError(9, "Bad file descriptor")  # NFS says so of a folder

        monkeypatch.setattr("fcntl.flock", no_locks)
        (tmp_path / ".out.partial-abcdefgh").mkdir()
        with new_folder(tmp_path / "out"):
            pass
        assert sorted(os.listdir(tmp_path)) == [".out.partial-abcdefgh", "out"]

    def test_a_relative_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also when the working directory changes meanwhile."""
        monkeypatch.chdir(tmp_path)
        with new_folder(Path("out")):
            os.chdir("/")
        assert (tmp_path / "out").is_dir()


class TestRequireNew:
    @pytest.mark.parametrize("what", ["folder", "file"])
    def test_exists(self, what: str, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir() if what == "folder" else out.write_text("")
        with pytest.raises(BadInput, match=r"out: got .*out: exists"):
            check_new_path("out", out)

    def test_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(BadInput, match="file is not a writable folder"):
            check_new_path("out", tmp_path / "file" / "deep" / "out")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_not_writable(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(BadInput, match="is not a writable folder"):
            check_new_path("out", tmp_path / "out")

    def test_new(self, tmp_path: Path) -> None:
        check_new_path("--out", tmp_path / "a" / "b" / "out")
        check_new_path("--out", Path("surely-not-there"))
        assert os.listdir(tmp_path) == []


class TestRequireSpace:
    def test_room(self, tmp_path: Path) -> None:
        check_disk_space(tmp_path, 1)

    def test_where_a_folder_is_yet_to_be_made(self, tmp_path: Path) -> None:
        check_disk_space(tmp_path / "new" / "folder", 1)
        with pytest.raises(OutputFailed, match="the disk is full"):
            check_disk_space(tmp_path / "new" / "folder", 1 << 60)

    def test_none(self, tmp_path: Path) -> None:
        with pytest.raises(OutputFailed, match="the disk is full: 1,152,921,504,606,846,976 bytes needed"):
            check_disk_space(tmp_path, 1 << 60)


def test_reported_leaves_other_errors_alone(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), os_errors_as_output_failed(tmp_path):
        raise ZeroDivisionError


class TestModes:
    @pytest.mark.parametrize(
        ("umask", "file_mode", "folder_mode"),
        [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775), (0o027, 0o640, 0o750)],
    )
    def test_what_is_written_follows_the_umask(
        self, tmp_path: Path, umask: int, file_mode: int, folder_mode: int
    ) -> None:
        """Also the files that safetensors makes, which are private otherwise."""
        script = f"""
import os, torch
from pathlib import Path
from safetensors.torch import save_file
from secateur.storage import new_folder, write_json
os.umask({umask})
out = Path({str(tmp_path)!r}, "out")
with new_folder(out) as partial:
    save_file({{"a": torch.zeros(2)}}, partial / "model.safetensors")
    (partial / "inner").mkdir()
    write_json(partial / "inner" / "config.json", 1)
"""
        subprocess.run([sys.executable, "-c", script], check=True)
        written = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in written}
        assert modes == {
            "out": folder_mode,
            "inner": folder_mode,
            "model.safetensors": file_mode,
            "config.json": file_mode,
        }
