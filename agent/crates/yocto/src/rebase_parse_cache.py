# Rebases a parse cache of BitBake onto files that have the same content and other stat data, as after a fresh clone:
#
#     python3 rebase_parse_cache.py PATH/TO/bitbake/lib NEW_CACHE < TABLE_AND_CACHE
#
# A recipe in the cache is valid only while each file that it was made of has the stat data that BitBake saw: the seconds of
# its modification time, or (nanoseconds, size, inode), depending on the release. Standard input has a table of files
# whose content is the same as then: the number of its lines, and in each line eight numbers (seconds, nanoseconds, size
# and inode, first as they were and then as they are) and the real path. The old cache follows. Stat data in it that is in the
# table becomes today's. All other stat data stays, so that BitBake itself finds what changed.
#
# The agent has checked the digest of all that comes. It runs with every Python that BitBake supports.

import os
import pickle
import sys


class Table:
    """The files whose content did not change."""

    def __init__(self, stream):
        self.files = {}
        self.real = {}
        self.moved = 0
        for _ in range(int(stream.readline())):
            fields = stream.readline().rstrip(b"\n").split(b" ", 8)
            numbers = [int(field) for field in fields[:8]]
            self.files[os.fsdecode(fields[8])] = (numbers[:4], numbers[4:])

    def now(self, path, stamp):
        """Today's stat data of a file for which BitBake wrote down `stamp`."""
        # Zero stands for a file that was missing.
        if not stamp:
            return stamp
        if path not in self.real:
            known = path in self.files
            self.real[path] = self.files.get(path if known else os.path.realpath(path))
        if self.real[path] is None:
            return stamp
        old, new = (as_bitbake(numbers, stamp) for numbers in self.real[path])
        # Another state of the file than the table tells of.
        if stamp != old:
            return stamp
        self.moved += 1
        return new


def as_bitbake(numbers, example):
    """The stat data in the form that this release has."""
    seconds, nanoseconds, size, inode = numbers
    if isinstance(example, tuple):
        return (seconds * 10**9 + nanoseconds, size, inode)
    return seconds


def rebase(key, info, table):
    """Changes what the cache has of one recipe. `key` may begin with words such as `virtual:native:`."""
    info.timestamp = table.now(key[max(key.find("/"), 0):], info.timestamp)
    if info.file_depends:
        info.file_depends = [(path, table.now(path, stamp)) for path, stamp in info.file_depends]


def main():
    library, target = sys.argv[1:]
    sys.path.insert(0, library)
    # The cache holds objects of its classes.
    import bb
    import bb.cache

    stream = sys.stdin.buffer
    table = Table(stream)
    reader = pickle.Unpickler(stream)
    recipes = 0
    with open(target, "xb") as file:
        writer = pickle.Pickler(file, pickle.HIGHEST_PROTOCOL)
        # Versions of the cache and of BitBake, then keys and values in turn.
        for _ in range(2):
            writer.dump(reader.load())
        while True:
            try:
                key = reader.load()
            except EOFError:
                break
            info = reader.load()
            if not isinstance(key, str) or not isinstance(info, bb.cache.CoreRecipeInfo):
                sys.exit("the cache holds something other than recipes")
            rebase(key, info, table)
            recipes += 1
            writer.dump(key)
            writer.dump(info)
    print("%d entries, %d times of files" % (recipes, table.moved))


main()
