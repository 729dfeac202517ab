"""Writes BitBake's tasks with their signatures to one file, instead of a signature file for each task.

BitBake computes everything. This module adds targets to those of the call, and stops when the task graph is ready. The
query is a JSON object in a file: "layers" (directories whose recipes are targets, too), "targets" (BitBake targets) and
"output" (the name of the file in the build directory). The lines of the output are JSON objects, in this order:

    {"recipe": [MULTICONFIG, PN, FILE, IS_OWN]}         its number is the count of recipes before it
    {"skipped": [MULTICONFIG, PN, FILE, REASON]}
    {"task": [RECIPE, TASK, HASH, BASEHASH, [NUMBERS OF DEPENDENCIES], [[FILE, CHECKSUM]...]]}
    {"target": [TARGET, RECIPE]}
    {"variables": [RECIPE, [NAMES], [DIGESTS OF THEIR VALUES], {TASK: [NUMBERS OF NAMES]}]}
    {"end": NUMBER OF LINES BEFORE}

BitBake makes the signature of a task that always runs (nostamp) random, and so those of tasks that depend on it. Here it
is constant, so that two runs can be compared. The code runs with every Python that BitBake supports, from 3.5 on.
"""

import hashlib
import json
import os

# Layer code can make texts of any length.
LONGEST_TEXT = 2000


def text(value):
    return str(value)[:LONGEST_TEXT]


def real_file(name):
    """The path in [mc:NAME:][virtual:CLASS:]PATH."""
    start = name.find("/")
    return name[start:] if start >= 0 else name


def digest(value):
    return hashlib.sha256(str(value).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def spellings(context, target, task):
    """The ways to write a target: with its task, or without the default task."""
    name = "mc:%s:%s" % (context, target) if context else target
    names = {"%s:%s" % (name, task), "%s:%s" % (name, task[len("do_"):])}
    if task == "do_build":
        names.add(name)
    return names


class Query:
    def __init__(self, path):
        with open(path, encoding="utf-8") as stream:
            query = json.load(stream)
        self.layers = tuple(layer.rstrip("/") + "/" for layer in query["layers"])
        self.targets = list(query["targets"])
        self.output = query["output"]
        self.cooker = None

    def is_own(self, cooker, context, name):
        """Whether the recipe lies in one of the layers, or a file there appends to it."""
        path = real_file(name)
        if path.startswith(self.layers):
            return True
        try:
            collections = getattr(cooker, "collections", None)
            collection = collections[context] if collections else cooker.collection
            return any(append.startswith(self.layers) for append in collection.get_file_appends(path))
        except Exception:
            return False

    def more_targets(self, cooker):
        """The recipes of the layers, of which `world` leaves some out."""
        for context in cooker.multiconfigs:
            for name, recipe in cooker.recipecaches[context].pkg_fn.items():
                # Recipes of an SDK count only if a target needs them, and then they are in its graph.
                if recipe.startswith("nativesdk-") or not self.is_own(cooker, context, name):
                    continue
                yield "mc:%s:%s" % (context, recipe) if context else recipe
        for target in self.targets:
            yield target

    def watch_cooker(self, module):
        check_packages = module.BBCooker.checkPackages
        query = self

        def with_more_targets(cooker, packages, task=None):
            query.cooker = cooker
            found = check_packages(cooker, packages, task)
            known = set(found)
            for target in query.more_targets(cooker):
                if target not in known:
                    known.add(target)
                    found.append(target)
            return found

        module.BBCooker.checkPackages = with_more_targets

    def watch_runqueue(self, module):
        prepare = module.RunQueueData.prepare
        query = self

        def prepare_and_write(data):
            # Several recipes of a layer may provide the same: BitBake prints a note instead of an error.
            data.warn_multi_bb = True
            result = prepare(data)
            if result != 0:
                query.write(data, module)
            # BitBake has nothing to run.
            return 0

        module.RunQueueData.prepare = prepare_and_write

    def watch_siggen(self, module):
        prepare = module.SignatureGeneratorBasic.prep_taskhash

        def with_constant_taint(siggen, tid, *arguments, **options):
            result = prepare(siggen, tid, *arguments, **options)
            if str(siggen.taints.get(tid, "")).startswith("nostamp:"):
                siggen.taints[tid] = "nostamp:always"
            return result

        module.SignatureGeneratorBasic.prep_taskhash = with_constant_taint

    def write(self, data, runqueue):
        unfinished = self.output + ".new"
        with open(unfinished, "w", encoding="utf-8", errors="backslashreplace") as stream:
            count = 0
            for line in self.lines(data, runqueue):
                stream.write(json.dumps(line, separators=(",", ":")) + "\n")
                count += 1
            stream.write('{"end":%d}\n' % count)
        os.rename(unfinished, self.output)

    def lines(self, data, runqueue):
        caches, siggen = data.dataCaches, runqueue.bb.parse.siggen
        recipes, own = {}, []
        for context in sorted(caches):
            for name, recipe in sorted(caches[context].pkg_fn.items()):
                is_own = self.is_own(self.cooker, context, name)
                if is_own:
                    own.append((context, name))
                recipes[name] = len(recipes)
                yield {"recipe": [context, text(recipe), text(name), is_own]}
        for context, name, skipped in self.skipped():
            yield {"skipped": [context, text(skipped.pn), text(name), text(skipped.skipreason)]}
        numbers = {tid: number for number, tid in enumerate(data.runtaskentries)}
        for tid, entry in data.runtaskentries.items():
            name, _, task = tid.rpartition(":")
            dependencies = sorted(numbers[dependency] for dependency in entry.depends if dependency in numbers)
            files = [[text(path), text(checksum)] for path, checksum in siggen.file_checksum_values.get(tid, [])]
            basehash = getattr(siggen, "basehash", {}).get(tid) or ""
            yield {"task": [recipes[name], task, entry.hash, basehash, dependencies, files]}
        for context, target, task, name in data.targets:
            names = spellings(context, target, task)
            for wanted in self.targets:
                if wanted in names and name in recipes:
                    yield {"target": [wanted, recipes[name]]}
        for context, name in own:
            variables = self.variables(caches[context], name)
            if variables is not None:
                yield {"variables": [recipes[name]] + variables}

    def skipped(self):
        by_context = getattr(self.cooker, "skiplist_by_mc", None)
        if by_context is None:
            # The multiconfig is part of the name.
            by_context = {"": getattr(self.cooker, "skiplist", {})}
        for context in sorted(by_context):
            for name, skipped in sorted(by_context[context].items()):
                found = name.split(":")[1] if name.startswith("mc:") else context
                yield found, name, skipped

    def variables(self, cache, name):
        """The variables of a recipe, from BitBake 2.2 on."""
        values = getattr(cache, "siggen_varvals", {}).get(name)
        used = getattr(cache, "siggen_taskdeps", {}).get(name)
        if values is None or used is None:
            return None
        names = sorted(values)
        numbers = {variable: number for number, variable in enumerate(names)}
        tasks = {}
        for task, variables in used.items():
            # The code of a task is the value of a variable, too.
            tasks[task] = sorted(numbers[one] for one in set(variables) | {task} if one in numbers)
        return [[text(one) for one in names], [digest(values[one]) for one in names], tasks]


def watch(path, after_import):
    """Installs the query in the file: it runs once BitBake has parsed everything."""
    query = Query(path)
    after_import.call("bb.cooker", query.watch_cooker)
    after_import.call("bb.runqueue", query.watch_runqueue)
    after_import.call("bb.siggen", query.watch_siggen)
