"""Forks and exits, for as long as any test waits. Arguments: a file that grows meanwhile, the number of parallel chains.

It ends after five minutes: a test that was killed must not load the machine for good.
"""

import os
import sys
import time

beat, width = sys.argv[1], int(sys.argv[2])
null = os.open(os.devnull, os.O_RDWR)
for stream in range(3):
    os.dup2(null, stream)
os.setsid()
for _ in range(width - 1):
    if os.fork() == 0:
        break
number = 0
end = time.monotonic() + 300
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    number += 1
    with open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write(f"x{number}")
    with open(beat, "a", encoding="ascii") as file:
        file.write("x")
