"""A few small cases in this process, for tools that watch it: ``python -m bench.first_contact.small UNTIL``."""

import sys
import time

from bench.first_contact.correctness import small_steps


def main(until: float) -> int:
    """The exit status: 1 if a result is wrong. No case begins after `until`, so that a tool can still sum up."""
    steps, right, wrong = small_steps(), 0, 0
    for name, step in steps.items():
        if time.time() >= until:
            break
        try:
            step()
            right += 1
        except AssertionError as error:
            wrong += 1
            print(f"{name}: wrong: {error}", flush=True)
    print(f"{right} cases are right, {wrong} wrong, {len(steps) - right - wrong} not reached", flush=True)
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
