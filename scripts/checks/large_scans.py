"""Serve a folder of large scans on the labelling page, and measure how long a scan takes to come, and a stroke to be saved.

    python scripts/checks/large_scans.py                                            # 30 scans of 512×512×300
    python scripts/checks/large_scans.py --cases 3 --size 64 64 20                  # seconds, to try it

A scan is a body in noise, 12 bits deep, stored as .nii.gz. It is made once, and the others are links to it. The first one is
outlined in some of its slices. Times are by the clock, and of the server's part alone: from the request to the last byte of its
answer. With `--browser` headless Chromium opens the page, then another scan, until that is shown. It draws without a GPU, which
takes most of the time. So the seconds until it has read the scan are told by themselves.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from qnet.scripts.tables.label_pictures import open_page, open_scan
from qnet.scripts.tables.report_pictures import CHROMEDRIVER, CHROMIUM
from qnet.util.base.arguments import Parser
from qnet.util.base.tables import format_table
from qnet.util.clients.client import scan_path
from qnet.util.label.client import PageClient, running

SPACING_MM = (0.8, 0.8, 1.0)
N_STROKES = 12
SHOWN_S, SAVED_S = 5.0, 1.0     # what is meant to be kept


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--cases", type=int, default=30, help="scans in the folder; default: %(default)s")
    parser.add_argument("--browser", action="store_true", help="measure also until Chromium shows a scan")
    parser.add_argument("--size", type=int, nargs=3, default=[512, 512, 300], metavar=("X", "Y", "Z"), help="voxels of a scan")
    options = parser.parse_args(arguments)
    if options.browser and (CHROMIUM is None or CHROMEDRIVER is None):
        parser.error("--browser: allowed: where Chromium and chromedriver are installed")
    return options


def write_scans(folder: Path, n_cases: int, size: tuple[int, int, int]) -> Path:
    """Write the scans, and return the path of the first."""
    rng = np.random.default_rng(0)
    x, y, z = (np.linspace(-1, 1, n, dtype=np.float32) for n in size)
    body = (x[:, None, None] / 0.8) ** 2 + (y[:, None] / 0.6) ** 2 + 0 * z < 1
    values = np.where(body, 40, -1000).astype(np.int16) + rng.integers(-60, 60, size, np.int16)
    first = folder / "ct_01.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, np.diag([*SPACING_MM, 1])), first)
    for number in range(2, n_cases + 1):
        os.link(first, folder / f"ct_{number:02d}.nii.gz")
    return first


def timed(does: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a function took, and what it returned."""
    begun = time.monotonic()
    result = does()
    return time.monotonic() - begun, result


def measure(client: PageClient, size: tuple[int, int, int]) -> list[tuple[str, float, int, float | None]]:
    """Return what was asked for, the seconds, the bytes that were sent, and the seconds that it is meant to take at most."""
    names = [scan["name"] for scan in client.state()["scans"]]
    found = []
    for words, name in (("a scan at once, which is checked first", names[0]), ("the same scan again", names[0]),
                        ("a scan once the list has its picture", names[2])):
        while words.endswith("picture") and client.scan(name)["picture"] is None:
            time.sleep(0.5)
        seconds, (_, content) = timed(partial(client.ask, "GET", scan_path(name, "image")))
        found.append((words, seconds, len(content), SHOWN_S))
    label_map, strokes = np.zeros(size[::-1], np.uint8), list[float]()
    z, y, x = label_map.shape
    for k in range(N_STROKES):
        before = label_map.copy()
        label_map[(3 * k) % z, y // 4:y // 2, x // 4:x // 2] = 1
        drawn = {"1": {"0": {"drawn": sorted({(3 * one) % z for one in range(k + 1)}), "filled": []}}}
        strokes.append(timed(partial(client.change, names[0], before, label_map, drawn))[0])
    n_bytes = 5 * (y // 2 - y // 4) * (x // 2 - x // 4)
    found += [(words, seconds, n_bytes, SAVED_S) for words, seconds in (
        ("a stroke, the first", strokes[0]), ("a stroke, median", float(np.median(strokes[1:]))),
        ("a stroke, the slowest later", max(strokes[1:])))]
    seconds, (_, content) = timed(lambda: client.ask("GET", scan_path(names[0], "outlines")))
    found.append(("its outlines", seconds, len(content), SHOWN_S))
    seconds, (_, content) = timed(lambda: client.ask("GET", "/api/v1/state"))
    return [*found, ("the state of all scans", seconds, len(content), None)]


def measure_shown(client: PageClient) -> list[tuple[str, float, int, float | None]]:
    """Return rows as `measure` does: until Chromium, which draws without a GPU, shows the first scan, and another one."""
    names = [scan["name"] for scan in client.state()["scans"]]
    seconds, browser = timed(partial(open_page, client.address))
    try:
        browser.execute_script("""const { niivue } = labelPage.viewer, { addVolume } = niivue;
            niivue.addVolume = volume => { globalThis.readAt = performance.now(); return addVolume.call(niivue, volume); };
            globalThis.askedAt = performance.now();""")
        another, _ = timed(partial(open_scan, browser, names[1]))
        read = browser.execute_script("return readAt - askedAt") / 1000
    finally:
        browser.quit()
    return [("page and a scan, in Chromium", seconds, 0, None), ("another scan, in Chromium", another, 0, None),
            ("of that until it is read", read, 0, SHOWN_S)]


def too_slow(rows: list[tuple[str, float, int, float | None]]) -> list[str]:
    """Return what takes longer than it is meant to, of rows as `measure` returns them."""
    return [what for what, seconds, _, allowed in rows if allowed is not None and seconds > allowed]


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 1 if something takes longer than it is meant to."""
    options = parse_arguments(arguments)
    size = tuple(options.size)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "scans"
        folder.mkdir()
        first = write_scans(folder, options.cases, size)
        print(f"{options.cases} scans of {'×'.join(map(str, size))}, {first.stat().st_size / 1e6:.0f} MB each", flush=True)
        begun = time.monotonic()
        with running(folder) as (client, _):
            rows = [("start of the server", time.monotonic() - begun, 0, None), *measure(client, size)]
            rows += measure_shown(client) if options.browser else []
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(format_table(["what", "s", "allowed, s", "MB"], [
        [what, f"{seconds:.3f}", "" if allowed is None else f"{allowed:g}", f"{n_bytes / 1e6:.2f}" if n_bytes else ""]
        for what, seconds, n_bytes, allowed in rows]))
    return int(bool(too_slow(rows)))


if __name__ == "__main__":
    sys.exit(main())
