"""A recorder as a process of its own: `python -m tests.recorder.child FOLDER`; prints its port."""

from __future__ import annotations

import sys
from pathlib import Path

from twisted.internet import reactor

from tests.recorder.place import Place


def main() -> None:
    place = Place(Path(sys.argv[1]))
    place.start()
    sys.stdout.write(f"{place.port}\n")
    sys.stdout.flush()
    reactor.run()


if __name__ == "__main__":
    main()
