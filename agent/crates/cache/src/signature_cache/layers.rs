//! The layers of a `bblayers.conf` that the agent wrote and yocto-check-layer added to.

use std::path::{Path, PathBuf};

use super::{CacheResult, NotCacheable};

/// Variables that may have exactly these values beside BBLAYERS. The version ones only refer.
const FIXED: [(&str, &str); 4] = [
    ("LCONF_VERSION", "${LAYER_CONF_VERSION}"),
    ("POKY_BBLAYERS_CONF_VERSION", "${REQUIRED_POKY_BBLAYERS_CONF_VERSION}"),
    ("BBPATH", "${TOPDIR}"),
    ("BBFILES", ""),
];

/// The layers in their order.
///
/// # Errors
/// When there is anything in it that is not understood: a layer might be missed.
pub fn of_bblayers(text: &str) -> CacheResult<Vec<PathBuf>> {
    let joined = text.replace("\\\n", " ");
    let mut layers = Vec::new();
    for line in joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let odd = || NotCacheable(format!("conf/bblayers.conf has a line that is not understood: {line}"));
        let (variable, rest) = line.split_once(' ').ok_or_else(odd)?;
        let (operator, value) = rest.trim_start().split_once(' ').ok_or_else(odd)?;
        let value =
            value.trim().strip_prefix('"').and_then(|value| value.strip_suffix('"')).ok_or_else(odd)?;
        match (variable, operator) {
            ("BBLAYERS", "?=" | "+=" | "=") => {
                for word in value.split_whitespace() {
                    let plain = Path::new(word).is_absolute() && !word.contains(['$', '"', '~', '@']);
                    layers.push(Some(PathBuf::from(word)).filter(|_| plain).ok_or_else(odd)?);
                }
            }
            (_, "?=" | "=") if FIXED.contains(&(variable, value)) => {}
            _ => return Err(odd()),
        }
    }
    if layers.is_empty() {
        return Err(NotCacheable("conf/bblayers.conf names no layer".into()));
    }
    Ok(layers)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use agent_yocto::conf;

    #[test]
    fn what_the_agent_and_the_tool_write_is_read_back() {
        let layers = [PathBuf::from("/r/poky/meta"), PathBuf::from("/r/poky/meta-poky")];
        // checklayer/__init__.py, add_layers
        let text = conf::bblayers(&layers).unwrap() + "\nBBLAYERS += \"/l/meta-x\"\n";
        let wanted = [&layers[..], &[PathBuf::from("/l/meta-x")]].concat();
        assert_eq!(of_bblayers(&text).unwrap(), wanted);
    }

    #[test]
    fn anything_else_is_refused() {
        for line in [
            "BBLAYERS:append = \" /l\"",
            "BBLAYERS += \"${TOPDIR}/../l\"",
            "BBLAYERS += \"../l\"",
            "BBLAYERS += '/l'",
            "BBPATH = \"${TOPDIR}:/l\"",
            "BBFILES += \"/l/*.bb\"",
            "include /l/conf",
            "X = \"1\"",
            "python () {",
        ] {
            let text = format!("BBLAYERS ?= \"/m\"\n{line}\n");
            assert!(of_bblayers(&text).is_err(), "{line}");
        }
        assert!(of_bblayers("").is_err());
    }
}
