"""A device whose memory is short for a batch: what a stage says before it goes on with a smaller one."""

import sys

import torch


def go_on(smaller: str, line: str) -> None:
    """Say on standard error what is run instead, and give back what torch keeps of the device's memory.

    To be called when the error is no longer held: its traceback holds what fills the memory.

    Args:
        smaller: what is run from now on.
        line: what the error said.
    """
    print(f"memory is short: {smaller} ({line})", file=sys.stderr)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
