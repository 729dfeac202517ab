#![allow(clippy::unwrap_used)]

use super::*;

fn value(text: &str) -> Option<String> {
    Some(Variables::parse(text).value("V")?.text)
}

#[test]
fn operators_work_as_in_bitbake() {
    let table = [
        ("V = \"a\"\nV += \"b\"", "a b"),
        ("V += \"b\"", " b"),
        ("V = \"a\"\nV =+ \"b\"", "b a"),
        ("V = \"a\"\nV .= \"b\"", "ab"),
        ("V = \"a\"\nV =. \"b\"", "ba"),
        ("V ?= \"a\"\nV ?= \"b\"", "a"),
        ("V ??= \"a\"\nV ??= \"b\"", "b"),
        ("V ??= \"a\"\nV = \"b\"", "b"),
        // An addition replaces a weak default; `:append` keeps it.
        ("V ??= \"a\"\nV += \"b\"", " b"),
        ("V ??= \"a\"\nV:append = \" b\"", "a b"),
        ("V := 'a'", "a"),
        ("V_append = \" z\"\nV = \"a\"", "a z"),
        ("V_prepend = \"z \"\nV = \"a\"", "z a"),
        ("V:append = \" z\"\nV = \"a\"", "a z"),
        ("V:prepend = \"z \"\nV = \"a\"", "z a"),
        ("V:append += \"z\"\nV = \"a\"", "a z"),
        ("V:append = \" y\"\nV:append = \" z\"", " y z"),
        ("V = \"a b c\"\nV:remove = \"a c\"", " b "),
        ("V_remove = \"b\"\nV = \"a b c\"", "a  c"),
        ("V:remove = \"b\"\nV = \"bb b\"", "bb "),
        ("V=\"a\"", "a"),
        ("export V = \"a\"", "a"),
        ("V = \"a \\\n  b \\\n  c\"", "a   b   c"),
        ("V = \"a\"\nunset V\nV:append = \"b\"", "b"),
        ("V = \"a \"b\" c\"", "a \"b\" c"),
        ("V[doc] = \"x\"\nV = \"a\"", "a"),
    ];
    for (text, wanted) in table {
        assert_eq!(value(text).as_deref(), Some(wanted), "{text}");
    }
    for text in ["", "V[doc] = \"x\"", "V = \"a\"\nunset V", "V:remove = \"a\"", "V:append ??= \"a\""] {
        assert_eq!(value(text), None, "{text}");
    }
}

#[test]
fn expands_references_that_only_this_file_sets() {
    let table = [
        ("A = \"x\"\nV = \"${A} y\"", "x y"),
        ("V = \"${A} y\"\nA = \"x\"", "x y"),
        ("A = \"1\"\nV := \"${A}\"\nA = \"2\"", "1"),
        ("V := \"${A}\"\nA = \"2\"", "2"),
        ("V = \"a\"\nV := \"${V} b\"", "a b"),
        ("A = \"${B}\"\nB = \"${C}\"\nC = \"x\"\nV = \"${A}\"", "x"),
        ("V = \"^${LAYERDIR}/ ${LAYERDIR_RE}\"", "^${LAYERDIR}/ ${LAYERDIR_RE}"),
        // Not set here, a default, an addition, an override, a self-reference.
        ("V = \"a ${A}\"", "a \0"),
        ("A ?= \"x\"\nV = \"a ${A}\"", "a \0"),
        ("A += \"x\"\nV = \"a ${A}\"", "a \0"),
        ("A = \"x\"\nA:qemuall = \"y\"\nV = \"a ${A}\"", "a \0"),
        ("V = \"a ${V}\"", "a \0"),
        ("include x.inc\nA = \"x\"\nV = \"a ${A}\"", "a \0"),
        // Python is never evaluated, and spaces in it do not separate words.
        ("V = \"a ${@bb.utils.contains('A', 'b', ' c', '', d)} e\"", "a \0 e"),
        ("V = \"a ${@bb.utils.contains('A', '${B}', ' c', '', d)} e\"", "a \0 e"),
        ("V = \"a ${@{'x': ' y'}['x']} e\"", "a \0"),
        ("V = \"a ${@ open\"", "a \0"),
        ("V = \"a ${b c} d\"", "a \0"),
    ];
    for (text, wanted) in table {
        assert_eq!(value(text).as_deref(), Some(wanted), "{text}");
    }
}

#[test]
fn words_are_certain_or_not() {
    let table: [(&str, &[(&str, bool)]); 9] = [
        ("V = \"a b\"", &[("a", true), ("b", true)]),
        ("V = \"a b\"\nV:append = \" ${@x('y z')}\"", &[("a", true), ("b", true)]),
        ("V = \"a b\"\nV:append = \"${@x('y z')}\"", &[("a", true), ("b", false)]),
        ("V = \"a b\"\nV_append = \" ${@x('y z')} c\"", &[("a", true), ("b", true), ("c", true)]),
        ("V = \"a b\"\nV:remove = \"${@x('a')}\"", &[("a", false), ("b", false)]),
        ("V = \"a b\"\nV:remove:qemuall = \"a\"", &[("a", false), ("b", false)]),
        ("V = \"a b\"\nV:qemuall = \"a\"", &[("a", false), ("b", false)]),
        ("V = \"a b\"\nV:append:qemuall = \" c\"", &[("a", true), ("b", true)]),
        ("V:append:qemuall = \" c\"", &[]),
    ];
    for (text, wanted) in table {
        let value = Variables::parse(text).value("V").unwrap();
        let words = value.words();
        let words: Vec<_> = words.iter().map(|word| (word.text.as_str(), word.is_certain)).collect();
        assert_eq!(words, wanted, "{text}");
        assert_eq!(value.is_known(), text.lines().count() == 1 && !wanted.is_empty(), "{text}");
    }
}

#[test]
fn names_lines_of_statements_that_may_change_any_variable() {
    let table: [(&str, &[u32]); 16] = [
        ("", &[]),
        ("FOO:append:bar = \"${BAZ}\"", &[]),
        ("X = \"${@os.path.join('a', 'b')}\"", &[]),
        ("# a \\\n# b", &[]),
        ("FOO[doc] = \"x\"", &[]),
        ("addpylib ${LAYERDIR}/lib x\nexport FOO", &[]),
        ("A = \"b\"\n\nrequire conf/more.inc", &[3]),
        ("include conf/more.inc", &[1]),
        ("include_all conf/more.inc", &[1]),
        ("LAYERDEPENDS_${NAME} = \"a\"", &[1]),
        ("FOO = \"${@d.setVar('LAYERDEPENDS_x', 'a')}\"", &[1]),
        ("python () {", &[1]),
        ("FOO = \"unfinished", &[1]),
        ("# a \\\nLAYERDEPENDS_x = \"a\"", &[1]),
        ("FOO = \"a\" \"b", &[1]),
        ("FOO = \"a\" \\", &[1]),
    ];
    for (text, wanted) in table {
        assert_eq!(Variables::parse(text).opaque, wanted, "{text}");
    }
}

#[test]
fn limits_references_that_grow_exponentially() {
    let mut text = String::from("A0 = \"xxxxxxxxxx\"\n");
    for n in 1..16 {
        text += &format!("A{n} = \"{}\"\n", format!("${{A{}}}", n - 1).repeat(16));
    }
    let value = Variables::parse(&(text + "V = \"${A15}\"")).value("V").unwrap();
    assert!(value.text.len() < 2 * MOST_EXPANDED && !value.is_known());
    let doubling = format!("V = \"x\"\n{}", "V := \"${V}${V}\"\n".repeat(64));
    let value = Variables::parse(&doubling).value("V").unwrap();
    assert!(value.text.len() < 4 * MOST_EXPANDED, "{}", value.text.len());
}
