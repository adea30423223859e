"""How late the window's event loop is, idle and while a training runs and somebody paints.

A timer asks to be called every 10 ms; its lateness is what a hand would feel. Strokes are real
mouse events, ten times a second. PyTorch is not imported before the first press of Train.
Without a GPU, drawing the window costs processor time of its own, the more the larger it is:
compare with the row without training.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/event_loop.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from window import Painter, Stopwatch, open_window, run_event_loop, show_lateness, summary


def measure(seconds: float, size: int, window: tuple[int, int]) -> dict[str, list[float]]:
    """Lateness in ms of each part."""
    viewer, dock = open_window(size, window)
    session = dock.session
    run_event_loop(3.0)
    stopwatch, painter = Stopwatch(), Painter(viewer)
    with stopwatch.measuring("idle"):
        run_event_loop(seconds)
    session.change_settings(minutes=60)
    dock.plugin.structures.choose_brush(1)
    painter.start()
    with stopwatch.measuring("painting"):
        run_event_loop(seconds)
    assert "torch" not in sys.modules
    with stopwatch.measuring("first press, painting"):
        dock.train.button.click()
        run_event_loop(120.0, lambda: session.job is None or "Step" in session.job.text)
        run_event_loop(2.0)
    with stopwatch.measuring("training, painting"):
        run_event_loop(3 * seconds)
    painter.stop()
    dock.train.button.click()
    run_event_loop(60.0, lambda: session.job is None)
    viewer.close()
    return stopwatch.late


def main() -> int:
    """Print a table; write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each part")
    parser.add_argument("--size", type=int, default=512, help="edge of the image in pixels")
    parser.add_argument("--window", type=int, nargs=2, default=(1366, 768), metavar=("W", "H"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table = summary(measure(options.seconds, options.size, tuple(options.window)))
    show_lateness(table)
    if options.json:
        report = {"cores": os.cpu_count(), "qt": os.environ.get("QT_API", ""), "late_ms": table}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
