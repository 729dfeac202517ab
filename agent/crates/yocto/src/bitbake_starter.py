# Starts the unmodified BitBake with additions that live only in its processes:
#
#     python3 bitbake_starter.py [OPTION]... -- PATH/TO/bin/bitbake [ARGUMENT]...
#
#   --discard-signature-files  leave the signature files (sigdata, sigbasedata) empty. BitBake still
#                              computes and compares all hashes, and creates every file.
#   --tasks=FILE               write the tasks and their signatures, for the query in the file (bitbake_tasks.py)
#   --task-order               number the tasks, and report for which one each waited (bitbake_task_order.py)
#   --events                   tell what BitBake does on the socket that is standard input (bitbake_events.py)
#
# BitBake must not notice: its arguments, module path, environment, output, exit status, task hashes and
# caches are the same as without this script. From release 1.50 on BitBake executes its server as a program
# of its own; then this script comes in front of that, too. It runs with every Python that BitBake supports,
# from 3.5 on.

import builtins
import os
import sys
import types

OPTIONS = ("--discard-signature-files", "--task-order", "--events")

TASKS = "--tasks="


class AfterImport:
    """A finder of modules that calls a function after a module has been imported."""

    def __init__(self):
        self.functions = {}

    def call(self, name, function):
        """Calls `function` with the module of that name, once it has been imported."""
        self.functions.setdefault(name, []).append(function)

    def find_spec(self, name, path=None, target=None):
        functions = self.functions.pop(name, None)
        if not functions:
            return None
        for finder in sys.meta_path:
            find_spec = getattr(finder, "find_spec", None)
            spec = find_spec(name, path, target) if find_spec and finder is not self else None
            if spec is not None:
                call_after_exec(spec.loader, functions)
                return spec
        return None


def call_after_exec(loader, functions):
    execute = loader.exec_module

    def exec_module(module):
        del loader.exec_module
        execute(module)
        for function in functions:
            function(module)

    loader.exec_module = exec_module


class WithoutDump:
    """Stands for the module `json` or `pickle`, and writes nothing."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        return getattr(self.module, name)

    def dump(self, *arguments, **options):
        pass


def discard_signature_files(siggen):
    """Lets `dump_sigtask` of the module bb.siggen create empty files."""
    # Up to release 1.52 (honister) the files are pickles, later they are compressed JSON.
    for name in ("json", "pickle"):
        if hasattr(siggen, name):
            setattr(siggen, name, WithoutDump(getattr(siggen, name)))
    zstd = sys.modules.get("bb.compress.zstd")
    if zstd is None:
        return
    compress = zstd.open

    def open_without_zstd(file, mode="rb", *arguments, **options):
        # Only signature files are written to a descriptor. The caller closes what it gets, and that closes
        # the descriptor.
        if isinstance(file, int) and mode == "wt":
            return builtins.open(file, mode, encoding=options.get("encoding"))
        return compress(file, mode, *arguments, **options)

    zstd.open = open_without_zstd


def start_server_with(options):
    """Comes in front of the program `bitbake-server`, with the same options."""
    execute = os.execl
    starter = os.path.abspath(__file__)
    # The server has another standard input.
    options = [option for option in options if option != "--events"]

    def execl(program, *arguments):
        # The first argument is the process's name, the second one the server's script.
        if len(arguments) > 1 and os.path.basename(arguments[1]) == "bitbake-server":
            arguments = (arguments[0], starter) + tuple(options) + ("--",) + arguments[1:]
        execute(program, *arguments)

    os.execl = execl


def load(name):
    """The module of that name in the directory of this script."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
    with open(path, "rb") as stream:
        code = compile(stream.read(), path, "exec")
    part = types.ModuleType(name)
    exec(code, part.__dict__)
    return part


def tell_events(after_import):
    """Lets the console of BitBake tell its events. Whatever goes wrong, BitBake does not notice."""
    try:
        events = load("bitbake_events")
        channel = events.take_stdin()
        if channel is not None:
            after_import.call("bb.ui.knotty", lambda knotty: events.watch(knotty, channel))
    except Exception:
        pass


def tell_task_order(after_import):
    """Adds the order of tasks to the events of BitBake's queue. An error here does not affect BitBake."""
    try:
        after_import.call("bb.runqueue", load("bitbake_task_order").watch)
    except Exception:
        pass


def run(arguments):
    """Runs the script as Python does that is started with these arguments."""
    script = os.path.abspath(arguments[0])
    with open(script, "rb") as stream:
        code = compile(stream.read(), arguments[0], "exec")
    sys.argv = arguments
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    main = types.ModuleType("__main__")
    main.__file__ = arguments[0]
    main.__builtins__ = builtins
    # The dictionary of this module must stay alive.
    main_before, sys.modules["__main__"] = sys.modules["__main__"], main
    sys.excepthook = without_starter
    exec(code, main.__dict__)
    del main_before


def without_starter(kind, error, trace):
    """Prints the traceback of an error as if BitBake had been started without this script."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.__excepthook__(kind, error, trace)


def main():
    end = sys.argv.index("--")
    options, arguments = sys.argv[1:end], sys.argv[end + 1:]
    unknown = [option for option in options if option not in OPTIONS and not option.startswith(TASKS)]
    if unknown or not arguments:
        sys.exit("bitbake_starter.py: unknown option %s" % unknown[0] if unknown else "no script")
    after_import = AfterImport()
    if "--discard-signature-files" in options:
        after_import.call("bb.siggen", discard_signature_files)
    if "--task-order" in options:
        tell_task_order(after_import)
    if "--events" in options:
        tell_events(after_import)
    for option in options:
        if option.startswith(TASKS):
            load("bitbake_tasks").watch(option[len(TASKS):], after_import)
    sys.meta_path.insert(0, after_import)
    start_server_with(options)
    run(arguments)


main()
