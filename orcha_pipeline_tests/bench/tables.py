"""Long tables of the evaluation sets, cut as they are measured: `unique_id, ds, y`.

`python -m orcha_pipeline_tests.bench.tables FOLDER` writes etth1.csv (first 14,400 h), turnover.csv (last 9,000 h),
m4_train.csv and m4_test.csv from ../shared/data; `orcha backtest forecast` then measures them (see the README).
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
ETTH1_HOURS = 14_400
TURNOVER_HOURS = 9_000


def etth1() -> pd.DataFrame:
    """The 7 columns of ETTh1, each a series."""
    wide = pd.read_csv(DATA / "etth1.csv").head(ETTH1_HOURS).rename(columns={"date": "ds"})
    return wide.melt(id_vars="ds", var_name="unique_id", value_name="y")[["unique_id", "ds", "y"]]


def turnover() -> pd.DataFrame:
    """The last hours of each token's turnover."""
    whole = pd.read_csv(DATA / "token_turnover_hourly.csv.gz", parse_dates=["ds"])
    since = whole.groupby("unique_id")["ds"].transform("max") - pd.Timedelta(hours=TURNOVER_HOURS - 1)
    return whole[whole["ds"] >= since]


def m4(part: str) -> pd.DataFrame:
    """M4's hourly series: `train` or `test`."""
    return pd.read_csv(DATA / f"m4_hourly_{part}.csv.gz")


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if not DATA.is_dir():
        sys.exit(f"The evaluation data is not at {DATA}.")
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"etth1": etth1, "turnover": turnover, "m4_train": lambda: m4("train"), "m4_test": lambda: m4("test")}
    for name, made in tables.items():
        made().to_csv(folder / f"{name}.csv", index=False)
        sys.stdout.write(f"{folder / name}.csv\n")


if __name__ == "__main__":
    main()
