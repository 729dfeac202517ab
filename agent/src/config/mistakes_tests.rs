//! What is wrong with a manifest: each mistake with its place, key and remedy.

use super::tests::*;

#[test]
fn each_mistake_alone_is_told_with_its_place_key_and_remedy() {
    // What replaces what in GOOD (an empty text: is added at its end), where the problem is, and
    // words of it in their order.
    let table: &[(&str, &str, &str, &[&str])] = &[
        // Keys.
        ("name =", "nmae =", "2:1: nmae: unknown key", &["did you mean `name`?"]),
        ("branch =", "brunch =", "7:1: [repos.poky] brunch: unknown key", &["did you mean `branch`?"]),
        ("", "[chek]\n", "9:2: [chek]: unknown key", &["did you mean `check`?"]),
        ("", "[layer]\ntargets = []", "10:1: [layer] targets: unknown key", &["belongs to [build]"]),
        (
            "",
            "[build]\nfrobnicate = 1",
            "10:1: [build] frobnicate: unknown key",
            &["known keys here", "targets"],
        ),
        (
            "",
            "[[artifacts.rules]]\ninclude='x'\nexcludes=[]",
            "11:1: [[artifacts.rules]] excludes",
            &["`exclude`"],
        ),
        ("version = 1\n", "", "1:1: version: is missing", &[]),
        ("name = \"meta-x\"\n", "", "1:1: name: is missing", &[]),
        ("", "[[artifacts.rules]]\nrequired=true", "9:1: [[artifacts.rules]] include: is missing", &[]),
        ("", "[github]\ntoken_secret='x'", "9:1: [github] repository: is missing", &["owner/name"]),
        // Types and choices.
        ("version = 1", "version = \"1\"", "1:11: version: must be an integer, not a string", &[]),
        ("version = 1", "version = 2", "1:11: version: is 2", &["only 1"]),
        ("\"meta-x\"", "5", "2:8: name: must be a string, not an integer", &["put it in quotes: \"5\""]),
        (
            "[\"meta\", \"meta-poky\"]",
            "'meta'",
            "8:10: [repos.poky] layers: must be a list of strings",
            &["[\'meta\']"],
        ),
        ("", "[repos]\nother = 'x'", "10:9: [repos] other: must be a table", &["[repos.NAME]"]),
        ("", "[config]\nlocal_conf=\"\\u0000\"", "10:12: [config] local_conf: contains the control", &[]),
        ("\"meta-poky\"]", "7]", "8:19: [repos.poky] layers: must be a string, not an integer", &[]),
        (
            "",
            "[check]\nmax_parallel_bitbakes = 0",
            "10:25: [check] max_parallel_bitbakes: is 0",
            &["1 means one after another"],
        ),
        ("", "[check]\nmax_parallel_bitbakes = -3", "10:25: [check] max_parallel_bitbakes: is -3", &[]),
        ("", "[check]\nside_by_side = -3", "10:16: [check] max_parallel_bitbakes: is -3", &[]),
        (
            "",
            "[check]\nside_by_side = 3\nmax_parallel_bitbakes = 3",
            "10:1: [check] side_by_side: unknown",
            &[],
        ),
        ("", "[check]\noelint = 'chanegd'", "10:10: [check] oelint: `chanegd`", &["did you mean `changed`?"]),
        ("", "[check]\npatches = true", "10:11: [check] patches: must be a string", &[]),
        ("", "[check]\nparse_machines = ['a b']", "10:19: [check] parse_machines: `a b`", &[]),
        (
            "",
            "[check]\ncve_database = 'cve.db'",
            "10:16: [check] cve_database: `cve.db` is not an absolute path",
            &["outside of the checkout"],
        ),
        ("", "[[hooks]]\nbefore='build'", "9:1: [[hooks]] argv: is missing", &["The program"]),
        (
            "",
            "[[hooks]]\nargv=['true']",
            "9:1: [[hooks]]: has neither `before` nor `after`",
            &["before = \"build\""],
        ),
        (
            "",
            "[[hooks]]\nargv=['true']\nbefore='build'\nafter='build'",
            "9:1: [[hooks]]: has both",
            &["two hooks"],
        ),
        ("", "[[hooks]]\nargv=['x']\nafter='report'", "11:7: [[hooks]] after: `report`", &["publish"]),
        (
            "",
            "[[hooks]]\nargv=['make x']\nafter='build'",
            "10:6: [[hooks]] argv: `make x` is more than one word",
            &["\"sh\", \"-c\""],
        ),
        ("", "[[hooks]]\nargv=[]\nafter='build'", "10:6: [[hooks]] argv: is empty", &["sh"]),
        (
            "",
            "[[hooks]]\nargv=['x']\nafter='build'\n[[hooks]]\nargv=['/bin/x']\nbefore='build'",
            "13:6: [[hooks]] argv: two hooks have the name `x`",
            &["`name`"],
        ),
        (
            "",
            "[[hooks]]\nargv=['x']\nafter='build'\ntimeout='soon'",
            "12:9: [[hooks]] timeout: `soon`",
            &["20m"],
        ),
        (
            "",
            "[check]\nmax_parallel_bitbakes = '3'",
            "10:25: [check] max_parallel_bitbakes: must be an integer",
            &[],
        ),
        (
            "",
            "[check]\nyocto_check_layer = 'yes'",
            "10:21: [check] yocto_check_layer: must be true or false",
            &[],
        ),
        (
            "",
            "[config]\n[config.local_conf]",
            "10:1: [config.local_conf]: must be a string, not a table",
            &[],
        ),
        (
            "",
            "[cache]\naccess = 'write'",
            "10:10: [cache] access: `write` is not one of auto, read-only",
            &[],
        ),
        (
            "\"scarthgap\"\n\n",
            "\"scarthgp\"\n\n",
            "3:11: release: `scarthgp` is not one of dunfell",
            &["master", "did you mean `scarthgap`?"],
        ),
        // Syntax.
        ("version = 1", "version = ", "1:11: not valid TOML", &[]),
        ("[repos.poky]", "[repos.poky", "5:12: not valid TOML", &[]),
        ("branch =", "url = 'x'\nbranch =", "7:1: `url` is given twice", &[]),
        (
            "",
            "[repos.poky]\ncommit = '0123456789abcdef0123456789abcdef01234567'",
            "9:8: `poky` is given twice",
            &[],
        ),
        // Sources.
        (
            "branch =",
            "tag = \"v1\"\nbranch =",
            "8:1: [repos.poky] branch: `branch` and `tag` exclude one another",
            &[],
        ),
        (
            "branch = \"scarthgap\"\n",
            "",
            "5:1: [repos.poky]: has none of `branch`, `tag` and `commit`",
            &["branch = \"scarthgap\""],
        ),
        (
            "branch = \"scarthgap\"",
            "commit = '0123abc'",
            "7:10: [repos.poky] commit: `0123abc` is an abbreviated",
            &["40 digits"],
        ),
        ("branch = \"scarthgap\"", "branch = 'refs/heads/x'", "7:10: [repos.poky] branch: ", &["write `x`"]),
        (
            "branch = \"scarthgap\"",
            "path = '.'\nbranch='x'",
            "7:1: [repos.poky] path: `url` and `path` exclude",
            &["--set 'repos."],
        ),
        (
            "url = \"https://git.yoctoproject.org/poky\"\nbranch = \"scarthgap\"\nlayers = [\"meta\", \"meta-poky\"]\n",
            "path = '.'\nbranch = 'x'\n",
            "7:1: [repos.poky] branch: does not go with `path`",
            &["without a checkout"],
        ),
        (
            "url = \"https://git.yoctoproject.org/poky\"\n",
            "",
            "5:1: [repos.poky]: has neither `url` nor `path`",
            &[],
        ),
        (
            "https://git.yoctoproject.org/poky",
            "git@host:poky",
            "6:7: [repos.poky] url: ",
            &["ssh://git@host/poky"],
        ),
        (
            "https://git.yoctoproject.org/poky",
            "htps://host/poky",
            "6:7: [repos.poky] url: `htps:` is not a scheme",
            &["https"],
        ),
        ("", "[repos.x]\npath = '../nowhere'", "10:8: [repos.x] path: ", &["not a directory"]),
        ("[repos.poky]", "[repos.\"../poky\"]", "5:8: [repos.\"../poky\"]: `../poky` is a path", &[]),
        ("[\"meta\", \"meta-poky\"]", "[]", "8:10: [repos.poky] layers: is empty", &["omit `layers`"]),
        ("\"meta-poky\"]", "\"../x\"]", "8:19: [repos.poky] layers: `../x` leads out of the repository", &[]),
        ("\"meta-poky\"]", "\"./meta\"]", "8:19: [repos.poky] layers: `./meta` is listed twice", &[]),
        // Layers under test.
        ("", "[layer]\npaths = []", "10:9: [layer] paths: is empty", &["[\".\"]"]),
        (
            "",
            "[layer]\npaths = ['..']",
            "10:10: [layer] paths: `..` lies outside the checkout",
            &["the checkout is /"],
        ),
        ("", "[layer]\npaths = ['/etc']", "10:10: [layer] paths: `/etc` lies outside the checkout", &[]),
        ("", "[layer]\npaths = ['gone']", "10:10: [layer] paths: `gone`: no such directory", &[]),
        ("", "[layer]\npaths = ['.', './']", "10:15: [layer] paths: `./` is listed twice", &[]),
        // Configuration and checks.
        ("", "[config]\nmachines = []", "10:12: [config] machines: is empty", &[]),
        ("", "[config]\nmachines = ['a', 'b\"']", "10:18: [config] machines: `b\"` cannot be the name", &[]),
        ("", "[config]\ndistro = 'a b'", "10:10: [config] distro: `a b` cannot be", &[]),
        (
            "",
            "[check]\nbitbake_layers = ['add-layer x']",
            "10:19: [check] bitbake_layers: `add-layer` changes",
            &["read-only"],
        ),
        (
            "",
            "[check]\nbitbake_layers = ['show_layers']",
            "10:19: [check] bitbake_layers: ",
            &["did you mean `show-layers`?"],
        ),
        (
            "",
            "[check]\nknown_failures = 'gone.toml'",
            "10:18: [check] known_failures: `gone.toml`: no such file",
            &[],
        ),
        (
            "",
            "[check]\nknown_failures = '/etc/passwd'",
            "10:18: [check] known_failures: ",
            &["outside the checkout"],
        ),
        ("", "[build]\ntargets = ['-c']", "10:12: [build] targets: `-c` is an option", &[]),
        (
            "",
            "[build]\ntargets = ['x', 'y:do_cleansstate']",
            "10:17: [build] targets: ",
            &["cleans", "other running builds"],
        ),
        ("", "[build]\ntargets = ['x', 'x']", "10:17: [build] targets: `x` is listed twice", &[]),
        // Cache, artifacts, GitHub.
        (
            "",
            "[cache]\nshare = 'efs'",
            "10:9: [cache] share: `efs` is neither an absolute path",
            &["s3://BUCKET/PREFIX"],
        ),
        (
            "",
            "[cache]\nsstate_max_age = '30'",
            "10:18: [cache] sstate_max_age: `30` is not a duration",
            &["60d"],
        ),
        (
            "",
            "[cache]\nhash_server = 'on'",
            "10:15: [cache] hash_server: `on` is not a hash server",
            &["host:port"],
        ),
        (
            "",
            "[cache.prices]\ngb_month = -1",
            "10:12: [cache.prices] gb_month: a price must not be negative",
            &[],
        ),
        ("", "[cache.prices]\ngb_month = '1'", "10:12: [cache.prices] gb_month: must be a number", &[]),
        ("", "[cache.prices]\ngb_month = inf", "10:12: [cache.prices] gb_month: must be a number", &[]),
        (
            "",
            "[cost]\nper_minute = { X = -1 }",
            "10:20: [cost.per_minute] X: a price must not be negative",
            &[],
        ),
        ("", "[cost]\nper_minute = { X = 'a' }", "10:20: [cost.per_minute] X: must be a number", &[]),
        ("", "[cost]\nper_minute = 0.02", "10:14: [cost] per_minute: must be a table", &[]),
        ("", "[cost]\nefs_read_gb = -0.03", "10:15: [cost] efs_read_gb: a price must not be negative", &[]),
        ("", "[cost]\nnat_gb = inf", "10:10: [cost] nat_gb: must be a number", &[]),
        ("", "[cost]\ncompute_type = 'a b'", "10:16: [cost] compute_type: `a b`", &[]),
        ("", "[cost]\ncomputetype = 'a'", "10:1: [cost] computetype: unknown key", &["`compute_type`"]),
        ("", "[cache]\nprices = 1", "10:10: [cache] prices: must be a table", &[]),
        (
            "",
            "[cache]\nendpoint_port = 80",
            "10:17: [cache] endpoint_port: `80` is not a port that the agent may use",
            &["from 1024 to 65528"],
        ),
        (
            "",
            "[cache]\nendpoint_port = 65529",
            "10:17: [cache] endpoint_port: `65529` is not a port that the agent may use",
            &["from 1024 to 65528"],
        ),
        (
            "",
            "[artifacts]\ndestination = 'file:///x'",
            "10:15: [artifacts] destination: ",
            &["without a scheme: `/x`"],
        ),
        (
            "",
            "[artifacts]\ndestination = 'https://x'",
            "10:15: [artifacts] destination: ",
            &["s3://bucket/prefix"],
        ),
        (
            "",
            "[[artifacts.rules]]\ninclude = '/x'",
            "10:11: [[artifacts.rules]] include: `/x` can never match: it is absolute",
            &[],
        ),
        (
            "",
            "[[artifacts.rules]]\ninclude='x'\nexclude = ['y', 'a/../../b']",
            "11:17: [[artifacts.rules]] exclude: ",
            &["leads out"],
        ),
        (
            "",
            "[[artifacts.rules]]\ninclude = './'",
            "10:11: [[artifacts.rules]] include: `./` can never match",
            &[],
        ),
        (
            "",
            "[[artifacts.rules]]\ninclude = '.'",
            "10:11: [[artifacts.rules]] include: `.` can never match",
            &[],
        ),
        ("", "[[artifacts.rules]]\ninclude = ''", "10:11: [[artifacts.rules]] include: is empty", &[]),
        (
            "",
            "[[artifacts.rules]]\ninclude = 'a/'",
            "10:11: [[artifacts.rules]] include: `a/` can",
            &["write `a/**`"],
        ),
        (
            "",
            "[[artifacts.rules]]\ninclude = \"a\\u0007\"",
            "10:11: [[artifacts.rules]] include: contains the control",
            &[],
        ),
        (
            "",
            "[[artifacts.rules]]\ninclude = '../a'",
            "10:11: [[artifacts.rules]] include: `../a` can",
            &["leads out"],
        ),
        (
            "",
            "[[artifacts.rules]]\ninclude='a'\nexclude = ['b/']",
            "11:12: [[artifacts.rules]] exclude: `b/` can",
            &[],
        ),
        (
            "",
            "[[artifacts.rules]]\ninclude='a'\nexclude=['**']",
            "11:9: [[artifacts.rules]] exclude: `**` excludes",
            &[],
        ),
        (
            "",
            "[[artifacts.rules]]\ninclude='a['",
            "10:9: [[artifacts.rules]] include: `a[` is not a glob",
            &[],
        ),
        ("", "[github]\nrepository = 'x'", "10:14: [github] repository: `x` is not a repository", &[]),
        // Reports.
        ("", "[report]\nfail_on = 'newest'", "10:11: [report] fail_on: `newest`", &["all, new"]),
        ("", "[report]\nfailon = 'new'", "10:1: [report] failon: unknown key", &["did you mean `fail_on`?"]),
        (
            "",
            "[report]\nurl = 's3://b/x'",
            "10:7: [report] url: is not the address of a web page",
            &["https"],
        ),
        ("", "[report]\nurl = 'https://u:p@h/x'", "10:7: [report] url: contains a user or a password", &[]),
        ("", "[report]\nurl = 'https://h/x?y=1'", "10:7: [report] url: has a part after `?`", &[]),
        // Limits.
        ("", "[limits]\njob = '4 parsecs'", "10:7: [limits] job: `4 parsecs` is not a duration", &[]),
        ("", "[limits]\njob = '1m'", "10:7: [limits] job: grace (1m) must be shorter than job (1m)", &[]),
        ("", "[limits]\njob='1h'\ngrace = '2h'", "11:9: [limits] grace: grace (2h) must be shorter", &[]),
        ("", "[limits]\nlog = '2GB'", "10:7: [limits] log: `2GB` is not a size", &["2GiB"]),
        ("", "[limits]\nlog = '4KiB'", "10:7: [limits] log: `4KiB` is less than 1MiB", &[]),
        ("\"meta-x\"", "\"a/b\"", "2:8: name: `a/b` is a path", &[]),
    ];
    for (old, new, start, words) in table {
        let manifest = if old.is_empty() { good_and(new) } else { GOOD.replacen(old, new, 1) };
        assert_ne!(manifest, GOOD, "{old} is not in the manifest");
        let found = problems(&manifest);
        assert_eq!(found.len(), 1, "{manifest}\n{found:#?}");
        let rest = found[0].strip_prefix("build-agent.toml:").unwrap_or_default();
        assert!(rest.starts_with(start), "wanted {start}\nfound {}", found[0]);
        let mut rest = &rest[start.len()..];
        for word in *words {
            let at = rest.find(word).unwrap_or_else(|| panic!("{word} is missing in: {}", found[0]));
            rest = &rest[at + word.len()..];
        }
    }
}

#[test]
fn many_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let manifest = r#"name = "a b"
release = "scarthgp"
colour = "red"

[repos.poky]
url = "poky"
branch = "x"
tag = "y"
layers = ["meta", 5, "../x"]

[repos."no/good"]
path = "/nowhere/at/all"

[layer]
paths = [".."]

[config]
machines = [true, "a b"]

[build]
targets = ["-k", "x:do_cleanall"]

[limits]
job = "soon"
grace = 60
"#;
    let found = problems(manifest);
    let paths: Vec<_> =
        found.iter().map(|line| line.splitn(4, ':').take(3).skip(1).collect::<Vec<_>>().join(":")).collect();
    let wanted = [
        "1:1", "1:8", "2:11", "3:1", "6:7", "8:1", "9:19", "9:22", "11:8", "12:8", "15:10", "18:13", "18:19",
        "21:12", "21:18", "24:7", "25:9",
    ];
    assert_eq!(paths, wanted, "{found:#?}");
}

#[test]
fn a_duplicate_key_does_not_hide_other_mistakes() {
    let found = problems(&good_and("[layer]\npaths=['..']\n[repos.poky]\n"));
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn flags_are_named_instead_of_a_line() {
    let checkout = Checkout::new(&[("build-agent.toml", GOOD)]);
    for (flag, wanted) in [
        (
            "repos.poky.brunch=x",
            "--set repos.poky.brunch=x: [repos.poky] brunch: unknown key | did you mean `branch`?",
        ),
        ("release=scarthgp", "--set release=scarthgp: release: `scarthgp` is not one of"),
        (
            "build.targets=x",
            "--set build.targets=x: [build] targets: must be a list of strings, not a string | put it in brackets: [\"x\"]",
        ),
        (
            "build.targets=[x]",
            "--set build.targets=[x]: [build] targets: must be a list of strings, not a string | it is not a list in TOML",
        ),
        ("limits.job=4", "--set limits.job=4: [limits] job: `4` is not a duration"),
        (
            "repos.poky.tag=v1",
            "--set repos.poky.tag=v1: [repos.poky] tag: `branch` and `tag` exclude one another",
        ),
        ("nonsense", "--set nonsense: has no `=`"),
    ] {
        let found = problems_of(checkout.load(&[flag]));
        assert!(found.len() == 1 && found[0].starts_with(wanted), "wanted {wanted}\nfound {found:#?}");
    }
}
