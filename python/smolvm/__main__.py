"""The ``smolvm`` command, the program that travels with this package; and an older name of it."""

import os
import sys

PROGRAM = "smolvm"


def main() -> None:
    """Becomes the bundled program."""
    become(sys.argv[1:])


def cleanup() -> None:
    """Becomes ``smolvm cleanup``, which older clients call ``smolvm-cleanup``."""
    become(["cleanup", *sys.argv[1:]])


def become(arguments: list[str]) -> None:
    directory = os.environ.get("SMOLVM_BINARY_DIR") or os.path.join(
        os.path.dirname(os.path.abspath(__file__)), "_bundled"
    )
    program = os.path.join(directory, PROGRAM)
    try:
        os.execv(program, [PROGRAM, *arguments])
    except OSError as error:
        sys.exit(f"error: cannot run {program}: {error.strerror}")


if __name__ == "__main__":
    main()
