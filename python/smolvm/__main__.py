"""The ``smolvm`` command: the program that travels with this package."""

import os
import sys

PROGRAM = "smolvm"


def main() -> None:
    """Becomes the bundled program."""
    directory = os.environ.get("SMOLVM_BINARY_DIR") or os.path.join(
        os.path.dirname(os.path.abspath(__file__)), "_bundled"
    )
    program = os.path.join(directory, PROGRAM)
    try:
        os.execv(program, [PROGRAM, *sys.argv[1:]])
    except OSError as error:
        sys.exit(f"error: cannot run {program}: {error.strerror}")


if __name__ == "__main__":
    main()
