"""Asks a Redis for a sign of life every millisecond, and tells how long it waited at most, in ms: `HOST PORT`.

Begins with a word on standard output, ends with standard input.
"""

from __future__ import annotations

import select
import socket
import sys
import time

from kill_child import tell


def main(host: str, port: int) -> None:
    longest = 0.0
    with socket.create_connection((host, port)) as connection:
        tell("begun")
        while not select.select([sys.stdin], [], [], 0.001)[0]:
            begin = time.perf_counter()
            connection.sendall(b"PING\r\n")
            connection.recv(100)
            longest = max(longest, time.perf_counter() - begin)
    tell(longest * 1000)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
