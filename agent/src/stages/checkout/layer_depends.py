import inspect, json, os, sys

bitbake, *layers = sys.argv[1:]
sys.path.insert(0, os.path.join(bitbake, "lib"))
import bb.codeparser, bb.data, bb.parse, bb.utils

with_base = "baseconfig" in inspect.signature(bb.parse.handle).parameters
for layer in layers:
    try:
        data = bb.data.init()
        bb.parse.init_parser(data)
        data.setVar("LAYERDIR", layer)
        conf = os.path.join(layer, "conf", "layer.conf")
        more = {"baseconfig": True} if with_base else {}
        data = bb.parse.handle(conf, data, include=True, **more)
        data.expandVarref("LAYERDIR")
        names = (data.getVar("BBFILE_COLLECTIONS") or "").split()
        depends = {}
        for name in names:
            depends[name] = list(bb.utils.explode_dep_versions2(data.getVar("LAYERDEPENDS_" + name) or ""))
        answer = {"layer": layer, "depends": depends}
    except BaseException as error:
        answer = {"layer": layer, "error": "%s: %s" % (type(error).__name__, error)}
    print("build-agent-answer " + json.dumps(answer), flush=True)
