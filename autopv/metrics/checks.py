"""What every distance asks of the features it is given."""

from torch import Tensor

from autopv.errors import MetricError


def check_features(features_ND: Tensor, where: str) -> None:
    """Nothing, for a finite floating-point matrix of at least two rows; else raises MetricError naming `where`."""
    if features_ND.ndim != 2 or not features_ND.is_floating_point():
        raise MetricError(
            f"features must be a floating-point matrix (images, features), but {where} is "
            f"{features_ND.dtype} with shape {tuple(features_ND.shape)}"
        )
    if len(features_ND) < 2:
        raise MetricError(f"a distance between sets needs at least 2 images each, but {where} holds {len(features_ND)}")
    bad = int((~features_ND.isfinite().all(dim=1)).sum())
    if bad:
        raise MetricError(
            f"features must be finite, but {bad} of the {len(features_ND)} rows of {where} hold nan or inf"
        )


def check_pair(features_a_ND: Tensor, features_b_MD: Tensor) -> None:
    """Nothing, for two sets of features of one width; else raises MetricError."""
    check_features(features_a_ND, "features_a_ND")
    check_features(features_b_MD, "features_b_MD")
    if features_a_ND.shape[1] != features_b_MD.shape[1]:
        raise MetricError(
            "both sets must have the same number of features, but got "
            f"{features_a_ND.shape[1]} and {features_b_MD.shape[1]}; were they made by the same extractor?"
        )
