"""The entry point. `run` and `proxy` reach the keeper without click, asyncio or msgspec; all else is bascule.cli."""

import sys

_PATIENT_NICE = 15


def main() -> int:
    """Run the command in sys.argv and return its exit status."""
    argv = sys.argv[1:]
    if argv and argv[0] in ("run", "proxy") and not {"--help", "-h"} & set(argv):
        from bascule.process.entry import main as keeper

        return keeper(argv[0], argv[1:])
    if argv and argv[0] == "_program":
        from bascule.process.program import main as program

        return program(argv[1:])
    if argv and argv[0] == "_succession":
        from bascule.process.succession import main as succession

        return succession(argv[1:])
    if argv[:1] == ["upgrade"] and "--back" not in argv:
        import os

        os.nice(_PATIENT_NICE)  # the imports of a command take 0.1 s of CPU from who serves, and an upgrade can wait
    from bascule.cli.main import main as command_line

    return command_line(argv)


if __name__ == "__main__":
    sys.exit(main())
