import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from extractor_cases import VARIABLE, Server, serve, weight_file

from autopv.caching import cache_folder
from autopv.errors import MetricError
from autopv.metrics.private_files import check_private
from autopv.metrics.weights import WeightFile, read_weights

CONTENT = bytes(range(256)) * 5000


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of weights in a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv(VARIABLE, raising=False)
    return cache_folder() / "weights"


@pytest.fixture
def server() -> Iterator[Server]:
    with serve(CONTENT) as started:
        yield started


@pytest.fixture
def weights(server: Server) -> WeightFile:
    return weight_file(CONTENT, url=server.url)


def files(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.endswith(".lock"))


def test_a_download_is_kept_and_read_afterwards(
    server: Server, weights: WeightFile, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_weights(weights) == CONTENT
    assert files(folder) == ["stand-in.pt"]
    assert folder.stat().st_mode & 0o777 == 0o700
    output = capsys.readouterr()
    assert output.out == ""
    assert "downloading stand-in.pt: 100%" in output.err
    assert read_weights(weights) == CONTENT
    assert server.ranges == [None]


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_broken_download_goes_on_where_it_stopped(
    server: Server, weights: WeightFile, folder: Path, knows_ranges: bool
) -> None:
    server.stop_after = 400_000
    with pytest.raises(MetricError, match=r"broke after 400,000 of 1,280,000 bytes .* run the command again"):
        read_weights(weights)
    assert files(folder) == ["stand-in.pt.partial"]
    server.stop_after, server.knows_ranges = None, knows_ranges
    assert read_weights(weights) == CONTENT
    assert server.ranges == [None, "bytes=400000-"]
    assert files(folder) == ["stand-in.pt"]


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 7)])
def test_a_partial_file_of_something_else_is_fetched_anew(
    server: Server, weights: WeightFile, folder: Path, left: bytes
) -> None:
    folder.mkdir(mode=0o700, parents=True)
    (folder / "stand-in.pt.partial").write_bytes(left)
    assert read_weights(weights) == CONTENT
    assert files(folder) == ["stand-in.pt"]


def test_other_content_is_refused_and_not_kept(server: Server, weights: WeightFile, folder: Path) -> None:
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(MetricError, match=f"must have sha256 {weights.sha256}, but .* sent "):
        read_weights(weights)
    assert files(folder) == []


@pytest.mark.parametrize("tells_length", [True, False])
def test_a_login_page_is_refused(server: Server, weights: WeightFile, tells_length: bool) -> None:
    server.content, server.tells_length = b"<html>please log in</html>", tells_length
    with pytest.raises(MetricError, match="perhaps a login page" if tells_length else "broke after 26 of"):
        read_weights(weights)


def test_a_server_that_never_ends_does_not_fill_the_disk(server: Server, weights: WeightFile, folder: Path) -> None:
    server.content, server.tells_length = CONTENT * 3, False
    assert read_weights(weights) == CONTENT
    assert (folder / "stand-in.pt").stat().st_size == len(CONTENT)


def test_offline_tells_the_file_the_address_and_both_ways_out(folder: Path) -> None:
    with pytest.raises(MetricError) as caught:
        read_weights(weight_file(CONTENT))
    for told in ("stand-in.pt", "http://127.0.0.1:9/none", str(folder / "stand-in.pt"), f"${VARIABLE}", "refused"):
        assert told in str(caught.value)


def test_an_answer_of_not_found_is_told(server: Server, weights: WeightFile) -> None:
    server.status = 404
    with pytest.raises(MetricError, match=r"cannot be downloaded .*404"):
        read_weights(weights)


def test_nothing_is_downloaded_or_made_unasked(server: Server, weights: WeightFile, folder: Path) -> None:
    with pytest.raises(MetricError, match="does not exist; get http"):
        read_weights(weights, download=False)
    assert server.ranges == []
    assert not folder.exists()


def test_racing_readers_download_once(server: Server, weights: WeightFile) -> None:
    read: list[bytes] = []
    threads = [threading.Thread(target=lambda: read.append(read_weights(weights))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [CONTENT] * 4
    assert server.ranges == [None]


def test_a_named_copy_is_read(tmp_path: Path, weights: WeightFile, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy.bin"
    monkeypatch.setenv(VARIABLE, str(copy))
    with pytest.raises(MetricError, match=rf"\${VARIABLE} must name a weight file, but .* is not a file"):
        read_weights(weights)
    copy.write_bytes(CONTENT)
    assert read_weights(weights) == CONTENT


@pytest.mark.parametrize(
    ("damage", "rule"),
    [(CONTENT[:-1], "must have 1,280,000 bytes, but .* has 1,279,999"), (b"x" + CONTENT[1:], "must have sha256")],
)
def test_truncated_and_tampered_files_are_refused(
    tmp_path: Path, weights: WeightFile, folder: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes, rule: str
) -> None:
    read_weights(weights)
    (folder / "stand-in.pt").write_bytes(damage)
    with pytest.raises(MetricError, match=f"{rule}.*; delete it, and it is downloaded again"):
        read_weights(weights)
    monkeypatch.setenv(VARIABLE, str(folder / "stand-in.pt"))
    with pytest.raises(MetricError, match=rf"{rule}.*; correct \${VARIABLE}"):
        read_weights(weights)


def test_a_folder_that_others_can_write_is_refused(weights: WeightFile, folder: Path, server: Server) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(MetricError, match="everybody can write to it; run `chmod go-w"):
        read_weights(weights)
    assert server.ranges == []


def test_a_folder_that_cannot_be_made_is_told(
    tmp_path: Path, weights: WeightFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    with pytest.raises(MetricError, match=rf"cannot be made: .* set \$XDG_CACHE_HOME .* or \${VARIABLE}"):
        read_weights(weights)


@pytest.mark.parametrize("change", [{"size_bytes": 0}, {"sha256": "abc"}, {"sha256": "X" * 64}])
def test_a_weight_file_needs_a_size_and_a_checksum(weights: WeightFile, change: dict[str, object]) -> None:
    with pytest.raises(MetricError, match="size_bytes >= 1 and a sha256"):
        replace(weights, **change)  # type: ignore[arg-type]


@pytest.fixture
def private(tmp_path: Path) -> Path:
    path = tmp_path / "outer" / "inner" / "net.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    for part in (path.parent.parent, path.parent):
        part.chmod(0o755)
    path.chmod(0o644)
    check_private(path)
    check_private(path.parent)
    return path


@pytest.mark.parametrize(("levels", "mode"), [(0, 0o666), (0, 0o602), (1, 0o777), (1, 0o1777), (2, 0o777)], ids=str)
def test_what_everybody_can_write_is_not_private(private: Path, levels: int, mode: int) -> None:
    writable = [private, *private.parents][levels]
    writable.chmod(mode)
    with pytest.raises(MetricError, match=f"but {writable}: everybody can write to it"):
        check_private(private)


def test_a_sticky_folder_further_up_is_private(private: Path) -> None:
    private.parent.parent.chmod(0o1777)
    check_private(private)


def test_a_link_is_judged_by_where_it_leads(private: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.pt"
    link.symlink_to(private)
    private.chmod(0o666)
    with pytest.raises(MetricError, match="everybody can write to it"):
        check_private(link)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another group")
def test_what_another_group_can_write_is_not_private(private: Path) -> None:
    os.chown(private, 0, 54321)
    private.chmod(0o664)
    with pytest.raises(MetricError, match="group 54321 can write to it"):
        check_private(private)
    os.chown(private, 0, 0)
    check_private(private)
