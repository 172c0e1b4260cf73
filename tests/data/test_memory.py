from pathlib import Path

import pytest

from autopv.data import memory


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 1,000 kB available and no container; its files can be changed."""
    (tmp_path / "meminfo").write_text("MemTotal:  4000 kB\nMemAvailable:  1000 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    return tmp_path


def limit(system: Path, *, limit: str) -> None:
    for name, text in (("max", limit), ("current", "700000"), ("stat", "anon 1\ninactive_file 300000\n")):
        (system / f"memory.{name}").write_text(text)


def test_a_quarter_of_the_available_memory_may_be_taken(system: Path) -> None:
    assert memory.available_bytes() == 1_024_000
    assert memory.fits_in_memory(256_000)
    assert not memory.fits_in_memory(256_001)


def test_a_container_with_less_left_counts_without_the_files_it_has_read(system: Path) -> None:
    limit(system, limit="900000")
    assert memory.available_bytes() == 500_000
    limit(system, limit="100000")
    assert memory.available_bytes() == 0


@pytest.mark.parametrize("text", ["max", "9000000000"])
def test_a_container_without_a_lower_limit_changes_nothing(system: Path, text: str) -> None:
    limit(system, limit=text)
    assert memory.available_bytes() == 1_024_000


def test_without_an_estimate_the_whole_machine_counts(system: Path) -> None:
    (system / "meminfo").write_text("MemTotal:  4000 kB\n")
    assert memory.available_bytes() > 2**28


def test_this_machine_has_some() -> None:
    assert 2**20 < memory.available_bytes() < 2**50
