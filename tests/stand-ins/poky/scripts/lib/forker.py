"""Forks and exits forever. Arguments: a file that grows meanwhile, and the number of parallel chains."""

import os
import sys

beat, width = sys.argv[1], int(sys.argv[2])
null = os.open(os.devnull, os.O_RDWR)
for stream in range(3):
    os.dup2(null, stream)
os.setsid()
for _ in range(width - 1):
    if os.fork() == 0:
        break
number = 0
while True:
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
