//! Buildtools with the installer's scripts of OE-Core itself, and real BitBake.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use build_agent_tests::{Part, skip_without};

use crate::POKY;
use crate::fixture::Fixture;

/// SDKPATH of buildtools-tarball.
const SDKPATH: &str = "/usr/local/oe-sdk-hardcoded-buildpath";
const SYSROOT: &str = "sysroots/x-linux";

/// An installer as OE-Core's recipe makes it, with a script and the machine's dynamic loader in the place of the programs.
fn installer(oe_core: &Path, loader: &Path, directory: &Path) -> PathBuf {
    let payload = directory.join("payload");
    let at = |name: &str| payload.join(SYSROOT).join(name);
    for name in ["usr/bin", "lib"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    fs::copy(loader, at("lib").join(loader.file_name().unwrap())).unwrap();
    fs::write(at("usr/bin/tool"), format!("#!/bin/sh\necho tool of {SDKPATH}\n")).unwrap();
    fs::set_permissions(at("usr/bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink(format!("{SDKPATH}/{SYSROOT}/usr/bin/tool"), at("usr/bin/link")).unwrap();
    let sysroot = format!("{SDKPATH}/{SYSROOT}");
    let environment = format!(
        "export PATH=\"{sysroot}/usr/bin:{sysroot}/usr/sbin:$PATH\"\nexport OECORE_NATIVE_SYSROOT=\"{sysroot}\"\n\
         export OPENSSL_CONF=\"{sysroot}/openssl.cnf\"\n\
         export BB_ENV_PASSTHROUGH_ADDITIONS=\"${{BB_ENV_PASSTHROUGH_ADDITIONS:-}} OPENSSL_CONF\"\n\
         unset OECORE_NATIVE_SYSROOT\n"
    );
    fs::write(payload.join("environment-setup-x-linux"), environment).unwrap();
    fs::copy(oe_core.join("scripts/relocate_sdk.py"), payload.join("relocate_sdk.py")).unwrap();
    let archive = directory.join("payload.tar.xz");
    let tar = Command::new("tar").arg("-C").arg(&payload).arg("-cJf").arg(&archive).arg(".").status();
    assert!(tar.unwrap().success());
    let read = |name: &str| fs::read_to_string(oe_core.join("meta/files").join(name)).unwrap();
    let mut text = read("toolchain-shar-extract.sh");
    for (key, value) in [
        ("@SDK_POST_INSTALL_COMMAND@", read("toolchain-shar-relocate.sh").as_str()),
        ("@SDK_PRE_INSTALL_COMMAND@", ""),
        ("@SDK_ARCH@", std::env::consts::ARCH),
        ("@OLDEST_KERNEL@", "3.2.0"),
        ("@SDKPATH@", SDKPATH),
        ("@SDKPATHINSTALL@", SDKPATH),
        ("@SDKEXTPATH@", SDKPATH),
        ("@SDK_ARCHIVE_TYPE@", "tar.xz"),
        ("@SDK_TITLE@", "Build tools"),
        ("@SDK_VERSION@", "1"),
        ("@REAL_MULTIMACH_TARGET_SYS@", "none"),
    ] {
        text = text.replace(key, value);
    }
    let file = directory.join("installer.sh");
    fs::write(&file, [text.trim_end().as_bytes(), b"\n", &fs::read(&archive).unwrap()].concat()).unwrap();
    file
}

/// The stand-in's jobs, which also download it, are in `standin/buildtools.rs`.
#[test]
fn an_installer_of_oe_core_reaches_bitbake() {
    let test = "an_installer_of_oe_core_reaches_bitbake";
    let loaders = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"].map(Path::new);
    let Some(loader) = loaders.into_iter().find(|loader| loader.exists()) else {
        return skip_without(Part::BitBake, test, "the machine's dynamic loader is unknown");
    };
    let programs = ["xz", "file", "xargs", "which"];
    let is_missing = |program: &&str| {
        !["/usr/bin", "/bin"].iter().any(|directory| Path::new(directory).join(program).exists())
    };
    if let Some(program) = programs.iter().find(|program| is_missing(program)) {
        return skip_without(Part::BitBake, test, &format!("there is no {program}"));
    }
    let Some(fixture) = Fixture::new(test, "meta-deploy", &[POKY]) else { return };
    let ran = fixture.call(&["shell", "--", "sh", "-c", "readlink -f \"$(command -v bitbake)\""]);
    ran.assert_code(&[0]);
    let bitbake = ran.stdout.lines().find(|line| line.ends_with("/bitbake/bin/bitbake")).unwrap();
    let top = fixture.directory.path();
    let installer = installer(Path::new(bitbake).ancestors().nth(3).unwrap(), loader, top);
    let output = Command::new("sha256sum").arg(&installer).output().unwrap();
    let sha256 = String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap().to_owned();
    let store = top.join("work/buildtools");
    fs::create_dir_all(&store).unwrap();
    fs::copy(&installer, store.join(format!("{sha256}.sh"))).unwrap();
    let (url, sha) = ("buildtools.url=http://127.0.0.1:9/x.sh", format!("buildtools.sha256={sha256}"));
    let script = "tool && link && bitbake -e | grep -E '^(export )?OPENSSL_CONF='";
    let ran = fixture.call(&["shell", "--set", url, "--set", &sha, "--", "sh", "-c", script]);
    ran.assert_code(&[0]);
    let tools = store.join(&sha256).display().to_string();
    assert_eq!(ran.stdout.matches(&format!("tool of {tools}\n")).count(), 2, "{}", ran.stdout);
    ran.assert_says(&[&format!("OPENSSL_CONF=\"{tools}/{SYSROOT}/openssl.cnf\"")]);
}
