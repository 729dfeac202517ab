#![allow(clippy::unwrap_used)]

use super::*;

const EXPANSION: &str = r#"Failure expanding variable LAYERDEPENDS_x, expression was core ${@d.getVar("NOT_SET").split()} which triggered exception AttributeError: 'NoneType' object has no attribute 'split'"#;
const EXPANDED: &str =
    "LAYERDEPENDS_x does not expand: AttributeError: 'NoneType' object has no attribute 'split'";
const VERSION: &str = "Invalid version specification in \"(~12)\" - invalid or missing operator";

/// The last output of yocto-check-layer (scarthgap and master) when it cannot evaluate a `layer.conf`.
fn crash(layers: &str, before: &str, last: &str) -> String {
    format!(
        "{before}\n\nDuring handling of the above exception, another exception occurred:\n\n\
         Traceback (most recent call last):\n  \
         File \"/oe/scripts/yocto-check-layer\", line 251, in <module>\n    ret =  main()\n           ^^^^^^\n  \
         File \"/oe/scripts/yocto-check-layer\", line 101, in main\n    \
         layers = detect_layers({layers}, args.no_auto)\n  \
         File \"/oe/scripts/lib/checklayer/__init__.py\", line 110, in _detect_layer\n    \
         layer['collections'] = _get_layer_collections(layer['path'])\n  \
         File \"/oe/scripts/lib/checklayer/__init__.py\", line 61, in _get_layer_collections\n    \
         depends = ldata.getVar('LAYERDEPENDS_%s' % name)\n{last}\n"
    )
}

/// A directory with the layers `x` (under test) and `y`, which have these lines after line 1.
fn layers(top: &Path, x: &str, y: &str) -> KnownLayers {
    for (name, lines) in [("x", x), ("y", y)] {
        let conf = top.join(name).join("conf");
        fs_err::create_dir_all(&conf).unwrap();
        let text = format!("BBFILE_COLLECTIONS += \"{name}\"\n{lines}\n");
        fs_err::write(conf.join("layer.conf"), text).unwrap();
    }
    KnownLayers::read(&[top.join("x")], &[top.join("y")], &[PathBuf::from("/oe")])
}

/// Layer, line and message of the fault.
fn brief(top: &Path, fault: Option<LayerFault>) -> Option<(String, bool, Option<u32>, String)> {
    let fault = fault?;
    let layer = fault.layer.map_or_else(String::new, |layer| {
        layer.strip_prefix(top.canonicalize().unwrap()).unwrap().display().to_string()
    });
    Some((layer, fault.is_under_test, fault.line, fault.why))
}

#[test]
fn finds_layer_and_line_for_every_message() {
    let python = "LAYERDEPENDS_x = \"core ${@d.getVar(\"NOT_SET\").split()}\"";
    let python_y = python.replace("DEPENDS_x", "DEPENDS_y");
    let expansion_y = EXPANSION.replace("DEPENDS_x", "DEPENDS_y");
    let refused = "bb.BBHandledException";
    let version = format!("bb.utils.VersionStringException: {VERSION}");
    let expansion = format!("bb.data_smart.ExpansionError: {EXPANSION}");
    let fatal = "  File \"Var <LAYERDEPENDS_x>\", line 1, in <module>\nbb.BBHandledException";
    let not_enabled = "Layer 'x' depends on layer 'z', but this layer is not enabled in your configuration";
    let pattern = "BBFILE_PATTERN_y \"^(\" is not a valid regular expression";
    let series = "Layer y is not compatible with the core layer which only supports these series: scarthgap \
                  (layer is compatible with dunfell)";
    // (lines of x, lines of y, output, layer with the fault, its line, message)
    type Row<'a> = (&'a str, &'a str, String, &'a str, Option<u32>, &'a str);
    let table: Vec<Row> = vec![
        (python, "", crash("args.layers", "AttributeError: x", &expansion), "x", Some(2), EXPANDED),
        ("A = \"b\"\nLAYERDEPENDS_x = \"core (~12)\"", "LAYERDEPENDS_y = \"core (~12)\"",
            crash("args.layers", &version, refused), "x", Some(3), VERSION),
        ("LAYERDEPENDS_x = \"core (~12)\"", "A = \"b\"\nLAYERDEPENDS_y = \"core (~12)\"",
            crash("args.dependency", &version, refused), "y", Some(3), VERSION),
        ("", &python_y, crash("args.dependency", "", &expansion_y), "y", Some(2),
            "LAYERDEPENDS_y does not expand: AttributeError: 'NoneType' object has no attribute 'split'"),
        ("LAYERDEPENDS_x = \"${@bb.fatal(\"no\")}\"", "", crash("args.layers", "", fatal), "x", Some(2),
            "LAYERDEPENDS_x does not expand"),
        // Only the frame identifies the layer.
        ("", "", crash("args.layers", "", "ValueError: odd"), "x", None, "ValueError: odd"),
        ("", "", crash("args.dependency", "", "ValueError: odd"), "", None, "ValueError: odd"),
        // BitBake's own errors, through bitbake-layers.
        ("A = \"b\"\nLAYERDEPENDS_x = \"z\"", "", format!("ERROR: {not_enabled}\nKeyError: 'z'"), "x", Some(3), not_enabled),
        ("", "BBFILE_PATTERN_y = \"^(\"", format!("ERROR: {pattern}"), "y", Some(2), pattern),
        ("BBFILE_PRIORITY_x = \"six\"", "", "ERROR: invalid value for BBFILE_PRIORITY_x: \"six\"".into(), "x", Some(2),
            "invalid value for BBFILE_PRIORITY_x: \"six\""),
        ("", "A = \"b\"\nLAYERSERIES_COMPAT_y = \"dunfell\"", format!("ERROR: {series}"), "y", Some(3), series),
        ("", "LAYERRECOMMENDS_y = \"a (~1)\"", "ERROR: Error parsing LAYERRECOMMENDS_y: odd".into(), "y", Some(2),
            "Error parsing LAYERRECOMMENDS_y: odd"),
        ("", "BBFILES_DYNAMIC += \"foo\"",
            "ERROR: BBFILES_DYNAMIC entries must be of the form {!}<collection name>:<filename pattern>, not:\n    foo".into(),
            "y", Some(2),
            "BBFILES_DYNAMIC entries must be of the form {!}<collection name>:<filename pattern>, not:"),
        ("LAYERDEPENDS_x = \"y\"", "LAYERDEPENDS_y = \"x\"",
            "line 1213, in calc_layer_priority\nRecursionError: maximum recursion depth exceeded".into(), "x", Some(2),
            "LAYERDEPENDS is cyclic, and a layer of the cycle has no BBFILE_PRIORITY"),
    ];
    for (x, y, output, layer, line, why) in table {
        let top = tempfile::tempdir().unwrap();
        let found = layers(top.path(), x, y).fault_of_conf(&output);
        let wanted = (layer.to_owned(), layer == "x", line, why.to_owned());
        assert_eq!(brief(top.path(), found), Some(wanted), "{output}");
    }
}

#[test]
fn finds_the_layer_by_the_code_of_a_shared_variable() {
    let top = tempfile::tempdir().unwrap();
    let python = "BBPATH .= \":${@d.getVar(\"NOPE\").split()}\"";
    let known = layers(top.path(), "BBPATH .= \":${LAYERDIR}\"", &format!("BBPATH .= \":a\"\n{python}"));
    let output = "ERROR: Failure expanding variable BBPATH, expression was :/l/x:a:${@d.getVar(\"NOPE\").split()} \
                  which triggered exception AttributeError: odd";
    let wanted = ("y".to_owned(), false, Some(3), "BBPATH does not expand: AttributeError: odd".to_owned());
    assert_eq!(brief(top.path(), known.fault_of_conf(output)), Some(wanted));
}

#[test]
fn finds_the_layer_by_its_path() {
    let top = tempfile::tempdir().unwrap();
    let known = layers(top.path(), "FOO := \"${@d.getVar(\"NOPE\").split()}\"", "");
    let place = top.path().canonicalize().unwrap();
    let failed = |name: &str| {
        format!("RuntimeError: Parsing of layer.conf from layer: {} failed", place.join(name).display())
    };
    let parse =
        format!("ParseError at {}:5: unparsed line: 'a b'", place.join("y/conf/layer.conf").display());
    let immediate = "  File \"Var <FOO[:=]>\", line 1, in <module>\nSystemExit: 3";
    let table = [
        (
            crash("args.dependency", &format!("bb.parse.ParseError: {parse}"), &failed("y")),
            ("y", Some(5), parse.clone()),
        ),
        (
            crash("args.layers", immediate, &failed("x")),
            ("x", Some(2), "FOO does not expand: SystemExit: 3".to_owned()),
        ),
        (format!("ERROR: {parse}"), ("y", Some(5), parse.clone())),
    ];
    for (output, (layer, line, why)) in table {
        let wanted = (layer.to_owned(), layer == "x", line, why);
        assert_eq!(brief(top.path(), known.fault_of_conf(&output)), Some(wanted), "{output}");
    }
}

#[test]
fn traceback_through_a_file_of_a_layer_is_its_fault() {
    let top = tempfile::tempdir().unwrap();
    let known = layers(top.path(), "", "");
    let file = top.path().canonicalize().unwrap().join("x/lib/odd.py");
    let output = format!(
        "Traceback (most recent call last):\n  File \"/oe/scripts/yocto-check-layer\", line 2, in main\n  \
         File \"{}\", line 7, in f\nValueError: odd",
        file.display()
    );
    assert_eq!(known.fault_of_conf(&output), None);
    let fault = known.fault_of_any_file(&output).unwrap();
    assert_eq!((fault.file, fault.line, fault.is_under_test), (Some(file), Some(7), true));
    assert_eq!(fault.why, "ValueError: odd");
}

#[test]
fn other_errors_are_not_faults_of_layers() {
    let top = tempfile::tempdir().unwrap();
    let known = layers(top.path(), "LAYERDEPENDS_x = \"core\"", "");
    for output in [
        "",
        "Traceback (most recent call last):\n  File \"/oe/scripts/yocto-check-layer\", line 2, in main\nValueError: odd",
        "ERROR: Nothing PROVIDES 'zlib'",
        "ERROR: BBFILE_PATTERN_other not defined",
        "ERROR: ParseError at /oe/meta/conf/bitbake.conf:3: odd",
    ] {
        assert_eq!(known.fault_of_any_file(output), None, "{output}");
    }
}

#[test]
fn a_place_belongs_to_its_layer_also_through_a_link() {
    let top = tempfile::tempdir().unwrap();
    let known = layers(top.path(), "", "");
    std::os::unix::fs::symlink(top.path().join("y"), top.path().join("link")).unwrap();
    for name in ["x", "y"] {
        fs_err::write(top.path().join(name).join("a_1.bb"), "").unwrap();
    }
    for (file, wanted) in [("x/a_1.bb", Some(true)), ("link/a_1.bb", Some(false)), ("z", None)] {
        let fault = known.fault_in(&top.path().join(file), Some(3), "odd");
        let wanted = wanted.map(|under_test| (under_test, Some(3)));
        assert_eq!(fault.map(|fault| (fault.is_under_test, fault.line)), wanted, "{file}");
    }
}
