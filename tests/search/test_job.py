"""Whole jobs from the command line, with real Ray, real files and real models."""

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from launching import RunCli, result_of, search

from autopv.cli import main
from autopv.evaluation.model_source import find_model
from autopv.policy import Policy
from autopv.search.events import read_events
from autopv.search.study_file import read_records

pytestmark = pytest.mark.slow


def test_a_job_leaves_the_documented_run_folder(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    for name in ("run.json", "study.db", "ledger.db", "events.jsonl", "space.toml", "result.json"):
        assert (folder / name).is_file(), name
    for name in ("preview.png", "samples.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG"), name
    recommended, best = Policy.load(folder / "policy.json"), Policy.load(folder / "best_found.json")
    assert recommended.is_image_only
    assert not best.is_image_only
    assert recommended.provenance is not None
    assert recommended.provenance["conclusion"] == "not enough evidence"
    assert (folder / "model" / "checkpoint.safetensors").is_file()


def test_a_finished_run_can_be_sampled_and_evaluated_by_its_folder(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    assert find_model(folder) == folder / "model"
    assert main(["sample", "--checkpoint", str(folder), "-n", "2", "--out", str(tmp_path / "samples")]) == 0


def test_data_may_be_read_only_and_nothing_is_written_beside_it(
    finished: tuple[Path, str], read_only: Path, image_file: Path
) -> None:
    assert result_of(finished[0])["trials"]
    assert [path.name for path in read_only.parent.iterdir()] == ["images.npy"]
    assert read_only.read_bytes() == image_file.read_bytes()
    assert np.load(read_only, mmap_mode="r").shape == (160, 16, 16)


def test_the_summary_says_what_is_in_the_folder(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    verdict = result_of(folder)["verdict"]
    assert verdict["sentence"] in printed
    assert verdict["conclusion"] == "not enough evidence"
    for arm in ("image-only", "gaussian-noise", "gaussian-blur", "pixelate", "random-1", "random-2"):
        assert arm in printed


def test_all_trials_ended_and_controls_at_full_compute(finished: tuple[Path, str]) -> None:
    records = read_records(finished[0] / "study.db")
    assert len(records) == 8
    assert {record.state for record in records} <= {"complete", "stopped"}
    assert all(record.state == "complete" for record in records if record.control is not None)


def test_no_trial_saw_the_final_split(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    events = list(read_events(folder / "events.jsonl"))
    verify_began = next(e["time"] for e in events if e["event"] == "phase" and e["phase"] == "verify")
    assert all(e["time"] <= verify_began for e in events if e["event"] == "look" and e["phase"] == "search")
    assert (folder / "metrics" / "final.safetensors").stat().st_mtime >= verify_began - 0.01


def test_a_finished_run_is_verified_further_and_searched_further(
    finished: tuple[Path, str], run_cli: RunCli, tmp_path: Path
) -> None:
    out = tmp_path / "extended"
    shutil.copytree(finished[0], out)
    before = result_of(out)
    done = run_cli("resume", str(out), "--more-seeds", "1")
    assert done.returncode == 0, done.stderr
    seeds = result_of(out)["verdict"]["seeds"]
    assert len(seeds) == 2
    assert seeds[0] == before["verdict"]["seeds"][0]
    assert result_of(out)["trials"] == before["trials"]
    refused = run_cli("resume", str(out), "--budget", "+1cpu-h")
    assert refused.returncode == 2
    assert "no limit on device time" in refused.stderr
    done = run_cli("resume", str(out), "--budget", "+2trials")
    assert done.returncode == 0, done.stderr
    after = result_of(out)
    assert after["budget"] == "10trials"
    assert after["trials"][: len(before["trials"])] == before["trials"] or len(after["trials"]) == 10
    assert after["verdict"]["seeds"] == seeds, "also with arms that are new, no seed is lost"
    assert {arm["name"] for arm in before["arms"]} <= {arm["name"] for arm in after["arms"]}


def test_a_time_budget_holds(data: tuple[str, ...], run_cli: RunCli, tmp_path: Path) -> None:
    out = tmp_path / "timed"
    done = run_cli(*search(data, out, budget="40cpu-s"))
    assert done.returncode == 0, done.stderr
    assert result_of(out)["spent_s"] <= 40 * 1.03
    assert "RUNNING" not in states(out)


def states(folder: Path) -> set[str]:
    with sqlite3.connect(folder / "study.db") as db:
        return {row[0] for row in db.execute("select state from trials")}
