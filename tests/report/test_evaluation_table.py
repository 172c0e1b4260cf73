import copy
from typing import Any

import pytest

from autopv.report.evaluation_table import evaluation_text


def figures(value: float, reach: float = 1.96) -> dict[str, float]:
    return {"value": value, "standard_error": reach / 1.96, "low": value - reach, "high": value + reach}


def distances(fd: float, kid: float) -> dict[str, Any]:
    return {
        "fd": {**figures(fd), "excess": figures(fd - 10)},
        "kid": {**figures(kid), "excess": figures(kid)},
        **{name: figures(0.5) for name in ("precision", "recall", "density", "coverage")},
    }


def comparison(**changes: Any) -> dict[str, Any]:
    return {
        "first": "made",
        "second": "other",
        "distance": "fd",
        **figures(-2.0, 5.0),
        "tie": True,
        "nearer": None,
        "num_images_to_resolve": 3001,
    } | changes


@pytest.fixture
def record() -> dict[str, Any]:
    """What `evaluate` tells of two sets, one of which has all that can be told."""
    reason = {"not_applicable": "made for want of something"}
    change = {"real": 0.8, "with_generated": 0.9, "change": 0.1, "low": 0.05, "high": 0.15, "tie": False}
    memorisation = {
        "num_near": 30,
        "num_generated": 300,
        "share_near": 0.1,
        "expected_share": 0.05,
        "p_value": 0.0001,
        "copying_z": -4.0,
        "num_copies": 7,
        "pairs": [],
    }
    classes = {
        "distances": {
            "crack": {
                "num_reference": 90,
                "num_generated": 80,
                "kid": figures(3.0),
                "num_fd": 80,
                "fd": 44.4,
                "fd_floor": 33.3,
            },
            "hole": {
                "num_reference": 9,
                "num_generated": 8,
                "kid": figures(5.0),
                "num_fd": 8,
                "fd": None,
                "fd_floor": None,
            },
        },
        "only_reference": ["stain"],
        "only_generated": [],
        "too_few": ["dent"],
        "share_distance": 0.25,
    }
    return {
        "metrics": {"fd": "fid", "kid": "kid"},
        "extractor": {"extractor": "inception", "input_size_px": 299, "size_px": 64},
        "num_images": 200,
        "num_generated": 300,
        "is_halved": False,
        "confidence": 0.95,
        "notes": ["something was left out"],
        "sets": {
            "real": {"role": "reference", "num_images": 200},
            "seen": {"role": "train", "num_images": 400},
            "made": {"role": "generated", "num_images": 300},
            "other": {"role": "generated", "num_images": 310},
        },
        "floor": {name: figures(10.0) for name in ("fd", "kid", "precision", "recall", "density", "coverage")},
        "generated": {
            "made": {
                **distances(20.0, 4.0),
                "memorisation": memorisation,
                "classes": classes,
                "defects": {
                    "kind": "coverage",
                    "covered": figures(0.5, 0.1),
                    "real": figures(0.6),
                    "background": figures(0.4),
                    "difference": figures(-0.1),
                    "num_defects": 55,
                    "num_images": 66,
                    "side_px": 8,
                },
                "usefulness": {
                    "classes": ["crack", "hole"],
                    "left_out": {"dent": "2 images"},
                    "num_train": 400,
                    "num_generated": {"crack": 80, "hole": 8},
                    "num_test": 200,
                    "penalty": 1.0,
                    "balanced_accuracy": change,
                    "macro_auroc": change | {"change": -0.1, "tie": True},
                },
            },
            "other": {
                **distances(22.0, 5.0),
                "memorisation": memorisation | {"p_value": 0.5, "num_copies": 0},
                "classes": reason,
                "defects": {
                    "kind": "distance",
                    "num_defects": 55,
                    "fd": {"value": 70.0, "standard_error": 5.0, "floor": 60.0},
                    "kid": {"value": 7.0, "standard_error": 1.0, "floor": 6.0},
                },
                "usefulness": reason,
            },
        },
        "comparisons": [comparison()],
    }


def test_what_was_measured_stands_above(record: dict[str, Any]) -> None:
    first, second, *_ = evaluation_text(record).splitlines()
    assert first == "Real images: real (200); floor: seen (400)"
    assert "inception features at 299 px of images at 64 px" in second
    assert "n = 200 real, 300 generated" in second
    del record["sets"]["seen"]
    assert "one half against the other" in evaluation_text(record)


def test_every_distance_stands_with_its_error_floor_and_excess(record: dict[str, Any]) -> None:
    lines = evaluation_text(record).splitlines()
    header, floor, made, other = lines[3:7]
    assert "fid" in header
    assert "kid x1000" in header
    assert "10.0 ± 2.0" in floor
    assert " ".join(made.split()) == "made 300 20.0 ± 2.0 10.0 ± 2.0 4.0 ± 2.0 4.0 ± 2.0 0.50 0.50 0.50 0.50"
    assert len({line.rindex("0.50") for line in (made, other)}) == 1


def test_a_tie_is_told_with_the_images_that_would_resolve_it(record: dict[str, Any]) -> None:
    assert "made - other = -2.0 [-7.0, +3.0]: a tie; about 3,001 images a side" in evaluation_text(record)
    record["comparisons"] = [comparison(num_images_to_resolve=10**9)]
    assert "a tie; more than 100,000 images a side" in evaluation_text(record)
    record["comparisons"] = [comparison(num_images_to_resolve=None)]
    assert evaluation_text(record).splitlines()[8].endswith("a tie")


def test_a_difference_is_told_with_the_nearer(record: dict[str, Any]) -> None:
    record["comparisons"] = [comparison(**figures(-9.0, 5.0), tie=False, nearer="made", num_images_to_resolve=None)]
    text = evaluation_text(record)
    assert "[-14.0, -4.0]: made is nearer to the real images" in text
    assert "Another training seed" in text
    assert "Another training seed" not in evaluation_text(record | {"comparisons": []})


def test_each_further_figure_has_its_lines(record: dict[str, Any]) -> None:
    text = evaluation_text(record)
    for expected in (
        "memorisation: 30 of 300 images (10.0%) are as near to a training image as only 5.0% of held-out real images",
        "7 of them copies: more than chance, copies or images simpler than real ones, look at the pairs (p = 0.0001",
        "data-copying z = -4.0",
        "are: no more than chance (p = 0.5",
        "by class (shares differ by 25%):",
        "never generated: stain",
        "too few images: dent",
        "any 66 of these images hold the like of 50% ± 10% of 55 held-out real defects",
        "as many real images hold that of 60%, as many without any defect that of 40%",
        "crops around 55 of them a side): fid 70.0 ± 9.8, floor 60.0; kid x1000 7.0 ± 2.0, floor 6.0",
        "tested on 200 held-out ones",
        "balanced accuracy 0.800 becomes 0.900, +0.100 [+0.050, +0.150], better",
        "a tie\n  ",
        "left out: dent has 2 images",
        "by class: made for want of something",
        "usefulness: made for want of something",
        "Note: something was left out.",
    ):
        assert expected in text


def test_classes_with_few_images_have_no_frechet_distance(record: dict[str, Any]) -> None:
    lines = evaluation_text(record).splitlines()
    (crack,) = (line for line in lines if line.strip().startswith("crack"))
    (hole,) = (line for line in lines if line.strip().startswith("hole"))
    assert crack.split()[-5:] == ["44.4", "(n", "=", "80)", "33.3"]
    assert hole.endswith("too few")


def test_long_paths_are_told_by_their_ends(record: dict[str, Any]) -> None:
    folder = "/data/project/of/somebody/with/a/long/name"
    renamed = copy.deepcopy(record)
    for part in ("sets", "generated"):
        renamed[part][f"{folder}/other"] = renamed[part].pop("other")
    renamed["comparisons"] = [comparison(second=f"{folder}/other")]
    table = evaluation_text(renamed).splitlines()
    assert any(line.startswith("…") and "/other " in line for line in table)
    assert max(map(len, table[3:7])) < 140
    assert f"{folder}/other:" in table, "its own paragraph tells the whole path"


def test_long_paths_with_one_end_stay_whole(record: dict[str, Any]) -> None:
    for name in ("made", "other"):
        label = f"/{name}/a/long/path/whose/last/part/is/the/same/for/both"
        for part in ("sets", "generated"):
            record[part][label] = record[part].pop(name)
    record["comparisons"] = []
    lines = evaluation_text(record).splitlines()
    assert lines[5].startswith("/made/")
    assert lines[6].startswith("/other/")
