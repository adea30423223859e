"""Average two files of pretrained weights.

    python benchmarks/average_weights.py BEFORE AFTER OUT [--weight 0.6]

A mean of the weights before and after further training keeps what they have in common and is more
robust to other images (Wortsman et al. 2022, https://arxiv.org/abs/2109.01903).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import load_file, save_file


def main() -> None:
    """Write the average."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weight", type=float, default=0.6, help="of the weights after it")
    options = parser.parse_args()
    before, after = load_file(options.before), load_file(options.after)
    old, new = 1 - options.weight, options.weight
    mixed = {n: t.float() * old + after[n].float() * new for n, t in before.items()}
    save_file({n: t.half() for n, t in mixed.items()}, options.out)


if __name__ == "__main__":
    main()
