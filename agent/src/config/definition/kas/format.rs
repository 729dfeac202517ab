//! The keys of kas's files: its `schema-kas.json`.

use super::super::shape::Shape::{self, AnyOf, Anything, Flag, List, Map, Null, Number, Table, Text, Words};

const TEXT_OR_NULL: Shape = AnyOf(&[Text, Null]);

const INCLUDE: Shape = AnyOf(&[Text, Table(&[("repo", Text), ("file", Text)])]);

const LAYER: Shape = AnyOf(&[
    Null,
    Words(&["disabled", "excluded", "n", "no", "0", "false"]),
    // YAML's `no`, `false` and `0`.
    Flag,
    Number,
    Table(&[("prio", Number)]),
]);

const REPO: Shape = AnyOf(&[
    Null,
    Table(&[
        ("name", Text),
        ("url", TEXT_OR_NULL),
        ("type", Words(&["git", "hg"])),
        ("commit", TEXT_OR_NULL),
        ("branch", TEXT_OR_NULL),
        ("tag", TEXT_OR_NULL),
        ("refspec", Text),
        ("signed", Flag),
        ("allowed_signers", List(&Text)),
        ("path", TEXT_OR_NULL),
        ("layers", Map(&LAYER)),
        ("patches", Map(&AnyOf(&[Null, Table(&[("repo", Text), ("path", Text)])]))),
    ]),
]);

const DEFAULTS: Shape = Table(&[(
    "repos",
    Table(&[("branch", Text), ("tag", Text), ("refspec", Text), ("patches", Table(&[("repo", Text)]))]),
)]);

const OVERRIDES: Shape =
    Table(&[("repos", Map(&Table(&[("branch", TEXT_OR_NULL), ("commit", TEXT_OR_NULL), ("url", Text)])))]);

const SIGNER: Shape = Table(&[
    ("type", Words(&["gpg", "ssh"])),
    ("repo", Anything),
    ("path", Text),
    ("fingerprint", Text),
    ("gpg_keyserver", Text),
]);

/// A file.
pub const FILE: Shape = Table(&[
    ("header", Table(&[("version", AnyOf(&[Number, Words(&["0.10"])])), ("includes", List(&INCLUDE))])),
    ("build_system", Words(&["openembedded", "oe", "isar", "isar-privileged", "isar-rootless"])),
    ("defaults", DEFAULTS),
    ("overrides", OVERRIDES),
    ("machine", Text),
    ("distro", Text),
    ("env", Map(&TEXT_OR_NULL)),
    ("target", AnyOf(&[Text, List(&Text)])),
    ("task", Text),
    ("repos", Map(&REPO)),
    ("bblayers_conf_header", Map(&Text)),
    ("local_conf_header", Map(&Text)),
    ("proxy_config", Map(&Text)),
    ("menu_configuration", Map(&Anything)),
    ("artifacts", Map(&Text)),
    ("signers", Map(&SIGNER)),
    ("_source_dir", Text),
    ("_source_dir_host", Text),
    ("buildtools", Table(&[("version", Text), ("sha256sum", Text), ("base_url", Text), ("filename", Text)])),
]);
