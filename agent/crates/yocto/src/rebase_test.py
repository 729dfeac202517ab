# Makes parse caches as BitBake does, rebases them, and compares: rebase_test.py LIBRARY DIRECTORY PROGRAM
import io
import os
import pickle
import subprocess
import sys

library, directory, program = sys.argv[1:]
sys.path.insert(0, library)
import bb
import bb.cache

recipe, link = directory + "/recipe.bb", directory + "/link.bb"
open(recipe, "w").close()
os.symlink(recipe, link)
TABLE = b"2\n100 5 7 1 200 6 8 2 %s\n1 1 1 1 2 2 2 2 %s\n" % (recipe.encode(), (directory + "/a b.inc").encode())


def info(timestamp, depends):
    value = bb.cache.CoreRecipeInfo.__new__(bb.cache.CoreRecipeInfo)
    value.timestamp, value.file_depends, value.pn = timestamp, depends, {"other": ["values"]}
    return value


def rebased(entries, table=TABLE):
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, pickle.HIGHEST_PROTOCOL)
    for thing in [bb.cache.__cache_version__, bb.__version__] + [thing for entry in entries for thing in entry]:
        pickler.dump(thing)
    target = directory + "/target"
    words = [sys.executable, program, library, target]
    ran = subprocess.run(words, input=table + stream.getvalue(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert ran.returncode == 0, ran.stdout
    with open(target, "rb") as file:
        reader = pickle.Unpickler(file)
        assert (reader.load(), reader.load()) == (bb.cache.__cache_version__, bb.__version__)
        found = []
        for _ in entries:
            key, value = reader.load(), reader.load()
            assert value.pn == {"other": ["values"]}
            found.append((key, value.timestamp, value.file_depends))
    os.remove(target)
    return found


# The two forms of stat data.
for stamp in (lambda s, ns, size, inode: s, lambda s, ns, size, inode: (s * 10**9 + ns, size, inode)):
    old, new, changed = stamp(100, 5, 7, 1), stamp(200, 6, 8, 2), stamp(99, 5, 7, 1)
    spaced = stamp(1, 1, 1, 1)
    depends = [(recipe, old), (link, old), (directory + "/a b.inc", spaced), ("/missing", 0), (recipe, changed), ("/other", old)]
    wanted = [(recipe, new), (link, new), (directory + "/a b.inc", stamp(2, 2, 2, 2)), ("/missing", 0), (recipe, changed), ("/other", old)]
    entries = [(recipe, info(old, depends)), ("mc:x:virtual:native:" + recipe, info(old, None)), ("/other.bb", info(old, []))]
    found = rebased(entries)
    assert found == [(recipe, new, wanted), ("mc:x:virtual:native:" + recipe, new, None), ("/other.bb", old, [])], found

# The size, the inode and the nanoseconds count, where the release compares them.
for other in ((100 * 10**9 + 6, 7, 1), (100 * 10**9 + 5, 8, 1), (100 * 10**9 + 5, 7, 2)):
    assert rebased([(recipe, info(other, []))]) == [(recipe, other, [])]

# Something else than a cache is refused.
for stream in (b"", b"0\n", b"0\n" + pickle.dumps("155") + pickle.dumps("2.8") + pickle.dumps("key") + pickle.dumps("value")):
    words = [sys.executable, program, library, directory + "/refused"]
    assert subprocess.run(words, input=stream, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).returncode != 0
    if os.path.exists(directory + "/refused"):
        os.remove(directory + "/refused")
