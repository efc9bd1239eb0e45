"""A few small cases in this process, for tools that watch it: ``python -m bench.first_contact.small``."""

import sys

from bench.first_contact.correctness import small_steps


def main() -> int:
    """The exit status: 1 if a result is wrong."""
    wrong = 0
    for name, step in small_steps().items():
        try:
            step()
        except AssertionError as error:
            wrong += 1
            print(f"{name}: wrong: {error}")
    print(f"{len(small_steps()) - wrong} cases are right, {wrong} wrong")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
