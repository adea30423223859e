"""Thousands of small files, each damaged or lying, are opened: an array, a model or a sentence.

    python benchmarks/mutants.py [--count 10000] [--seed 0] [--workers 2] [--only NUMBER]

A case fails when it ends in anything but an array, a model or a `UserError` of one line, when it
takes more than 2 s or 256 MB above the loaded program, or when an audit hook sees code run, a
process started, or a file opened that is not in the folder of the case (installed packages
aside). A slow case is tried once more alone, since other programs may have the machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence

from guarded import Result, serve
from mutations import Seed, make_seeds

__all__ = ["faults", "main", "run"]

SECONDS, MEGABYTES = 2.0, 256.0
HANGS = 20.0
"""A process that is silent for so long is ended."""
STARTS = 120.0


def run(count: int, seed: int, workers: int) -> list[Result]:
    """Open the cases 0 … ``count`` - 1, shared between worker processes."""
    seeds, found = make_seeds(), list[Result]()
    shares = [range(n, count, workers) for n in range(workers)]
    threads = [threading.Thread(target=_work, args=(seeds, seed, s, found)) for s in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, result in enumerate(found):
        if SECONDS < result.seconds < HANGS:
            again: list[Result] = []
            _work(seeds, seed, range(result.number, result.number + 1), again)
            found[place] = min(result, again[0], key=lambda r: r.seconds)
    return sorted(found, key=lambda r: r.number)


def _work(seeds: list[Seed], seed: int, numbers: range, found: list[Result]) -> None:
    """Have a process open cases; where it dies or hangs another one goes on after that case."""
    context = multiprocessing.get_context("spawn")
    while numbers:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, seeds, seed, numbers), daemon=True)
        process.start()
        theirs.close()
        done, current = 0, None
        try:
            while done < len(numbers):
                if not ours.poll(HANGS if current is not None else STARTS):
                    raise TimeoutError
                said = ours.recv()
                if isinstance(said, Result):
                    found.append(said)
                    done += 1
                else:
                    current = said
        except (EOFError, TimeoutError) as error:
            if current is None:
                raise RuntimeError("the process did not begin") from error
            text = "hangs" if isinstance(error, TimeoutError) else "the process died"
            kind = seeds[current % len(seeds)].kind
            found.append(Result(current, kind, "failed", text, HANGS, None))
            done += 1
            process.kill()
        process.join()
        numbers = numbers[done:]


def faults(result: Result) -> list[str]:
    """What of the promises a case broke."""
    broken = [result.text] if result.end == "failed" else []
    if result.seconds > SECONDS:
        broken.append(f"took {result.seconds:.1f} s")
    if result.megabytes is not None and result.megabytes > MEGABYTES:
        broken.append(f"took {result.megabytes:.0f} MB")
    return [*broken, *result.seen]


def _print(results: Sequence[Result]) -> None:
    kinds = defaultdict(list)
    for result in results:
        kinds[result.kind].append(result)
    print("kind              cases  opened  refused  at fault  longest s  most MB")
    for kind, group in [*sorted(kinds.items()), ("all", list(results))]:
        ends = Counter(r.end for r in group)
        bad = sum(bool(faults(r)) for r in group)
        longest = max(r.seconds for r in group)
        most = max(r.megabytes or 0.0 for r in group)
        print(
            f"{kind:16}  {len(group):5}  {ends['opened']:6}  {ends['refused']:7}  {bad:8}  "
            f"{longest:9.2f}  {most:7.0f}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 1 where a case is at fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, help="a single case, with all that is said of it")
    given = parser.parse_args(argv)
    start = time.perf_counter()
    if given.only is not None:
        results: list[Result] = []
        _work(make_seeds(), given.seed, range(given.only, given.only + 1), results)
        print(results[0].end, results[0].text)
    else:
        results = run(given.count, given.seed, given.workers)
    _print(results)
    bad = [r for r in results if faults(r)]
    for result in bad[:40]:
        print(f"\n{result.number} {result.kind}: " + "\n  ".join(faults(result))[-1500:])
    print(f"\n{len(bad)} of {len(results)} cases at fault; {time.perf_counter() - start:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
