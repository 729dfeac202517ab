//! Images that OE-Core's `runqemu` can start, and its arguments.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use agent_fs::dir::Kind;
use agent_fs::tree::{LinkTarget, Tree};

/// The end of the name of the file with an image's settings for QEMU.
const SETTINGS: &str = ".qemuboot.conf";

/// The maximum size of such a file.
const SETTINGS_LIMIT: u64 = 1 << 20;

/// Names that a message shows.
const SHOWN: usize = 8;

/// Arguments of runqemu that choose another display than the terminal.
const DISPLAYS: [&str; 7] = ["sdl", "gtk", "gl", "gl-es", "egl-headless", "publicvnc", "novga"];

/// An image in a build directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootImage {
    pub machine: String,
    /// Such as `core-image-minimal`.
    pub name: String,
    /// The absolute path of its settings, which runqemu reads.
    pub settings: PathBuf,
    /// Its settings, as the lines of the file.
    text: String,
}

/// Which image to start.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageFilter<'a> {
    pub machine: Option<&'a str>,
    pub image: Option<&'a str>,
    /// The machines of the manifest; without `machine`, the first one with images is used.
    pub machines: &'a [String],
    /// The targets of the manifest; without `image`, they select one of several.
    pub targets: &'a [String],
}

/// The images with settings for QEMU in `*/deploy/images/*` of a build directory, by machine and name. `TMPDIR` is not
/// always `tmp`: distros without a name have `tmp-glibc`.
///
/// # Errors
/// If the directories cannot be read.
pub fn images(build: &Path) -> io::Result<Vec<BootImage>> {
    let tree = Tree::open(build).map_err(io::Error::other)?;
    let mut images = Vec::new();
    for temporary in directories(&tree, Path::new(""))? {
        let deploy = temporary.join("deploy/images");
        if !tree.metadata(&deploy).is_ok_and(|found| found.kind() == Kind::Directory) {
            continue;
        }
        for directory in directories(&tree, &deploy)? {
            images.extend(images_of_machine(build, &tree, &directory)?);
        }
    }
    images.sort_by(|a, b| (&a.machine, &a.name).cmp(&(&b.machine, &b.name)));
    Ok(images)
}

fn directories(tree: &Tree, path: &Path) -> io::Result<Vec<PathBuf>> {
    let all = tree.list(path)?.into_iter().filter(|(_, kind)| *kind == Kind::Directory);
    Ok(all.map(|(name, _)| path.join(name)).collect())
}

/// The images in the deploy directory of a machine. A link names the newest build of an image; older builds are
/// ignored.
fn images_of_machine(build: &Path, tree: &Tree, directory: &Path) -> io::Result<Vec<BootImage>> {
    let Some(machine) = directory.file_name().and_then(|name| name.to_str()) else { return Ok(Vec::new()) };
    let (mut links, mut files) = (Vec::new(), Vec::new());
    for (name, kind) in tree.list(directory)? {
        let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(SETTINGS)) else { continue };
        let path = directory.join(&name);
        let (target, list) = match kind {
            Kind::File => (path.clone(), &mut files),
            Kind::Link => match tree.follow(&path, &tree.link(&path)?)? {
                LinkTarget::File(target) => (target, &mut links),
                _ => continue,
            },
            _ => continue,
        };
        let text = read(tree, &target)?;
        let (machine, name) = (machine.to_owned(), image_name(stem, machine).to_owned());
        list.push(BootImage { machine, name, settings: build.join(path), text });
    }
    Ok(if links.is_empty() { files } else { links })
}

fn read(tree: &Tree, path: &Path) -> io::Result<String> {
    let seen = tree.metadata(path)?.identity();
    let (file, _) = tree.open_file(path, seen)?;
    let mut bytes = Vec::new();
    file.take(SETTINGS_LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The image whose files begin with this: without the machine, and without the `.rootfs` that follows it from
/// scarthgap on.
fn image_name<'a>(stem: &'a str, machine: &str) -> &'a str {
    let without_suffix = stem.strip_suffix(".rootfs").unwrap_or(stem);
    let name = without_suffix.strip_suffix(machine).and_then(|name| name.strip_suffix('-'));
    name.filter(|name| !name.is_empty()).unwrap_or(stem)
}

/// Chooses the image to start.
///
/// # Errors
/// Why none is certain: a reason for people.
pub fn choose<'a>(images: &'a [BootImage], filter: ImageFilter) -> Result<&'a BootImage, String> {
    let is_of = |machine: &str| images.iter().any(|image| image.machine == machine);
    let machines = || list(images.iter().map(|image| image.machine.as_str()));
    let machine = match filter.machine {
        Some(machine) if is_of(machine) => machine,
        Some(machine) => {
            return Err(format!(
                "no image of the machine {machine} was built; there are images of {}",
                machines()
            ));
        }
        None => match filter.machines.iter().find(|machine| is_of(machine)) {
            Some(machine) => machine,
            None => {
                return Err(format!(
                    "no image of the manifest's machines ({}) was built; there are images of {}",
                    filter.machines.join(", "),
                    machines()
                ));
            }
        },
    };
    let of_machine: Vec<&BootImage> = images.iter().filter(|image| image.machine == machine).collect();
    let names = || list(of_machine.iter().map(|image| image.name.as_str()));
    let fits = |image: &BootImage| match filter.image {
        Some(name) => image.name == name,
        None => of_machine.len() == 1 || filter.targets.contains(&image.name),
    };
    let fitting: Vec<&BootImage> = of_machine.iter().copied().filter(|image| fits(image)).collect();
    match (fitting.as_slice(), filter.image) {
        ([image], _) => Ok(image),
        ([], Some(name)) => Err(format!("no image {name} was built for {machine}; there are {}", names())),
        _ => Err(format!("there are several images for {machine}: {}; name one with --image", names())),
    }
}

/// The first names, without repetition.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.dedup();
    let more = if names.len() > SHOWN { ", …" } else { "" };
    names.truncate(SHOWN);
    format!("{}{more}", names.join(", "))
}

impl BootImage {
    /// A value of its settings.
    fn value(&self, key: &str) -> Option<&str> {
        let mut lines = self.text.lines().filter_map(|line| line.split_once('='));
        let value = lines.find(|(name, _)| name.trim() == key)?.1.trim();
        Some(value).filter(|value| !value.is_empty())
    }

    /// Whether KVM can run its processor on a machine of this architecture. runqemu stops if a machine has no settings
    /// for KVM.
    pub fn may_use_kvm(&self, architecture: &str) -> bool {
        let guest = self.value("qb_system_name").and_then(|system| system.strip_prefix("qemu-system-"));
        let fits =
            guest.is_some_and(|guest| guest == architecture || guest == "i386" && architecture == "x86_64");
        fits && self.value("qb_cpu_kvm").is_some()
    }

    /// The directory of the QEMU that the build made, if it was deleted.
    pub fn missing_qemu(&self) -> Option<PathBuf> {
        let directory = self.settings.parent()?.join(self.value("staging_bindir_native")?);
        (!directory.exists()).then_some(directory)
    }

    /// The arguments of runqemu: the console on the terminal, a network that needs no root, and no changes to the
    /// image's files. `given`: the user's arguments, which have priority.
    pub fn arguments(&self, kvm: bool, keep_changes: bool, given: &[OsString]) -> Vec<OsString> {
        let has = |word: &str| given.iter().any(|one| one == word);
        let console = if DISPLAYS.into_iter().any(has) { "serialstdio" } else { "nographic" };
        let wanted = [(true, console), (true, "slirp"), (kvm, "kvm"), (!keep_changes, "snapshot")];
        let words = wanted.into_iter().filter(|(is_wanted, word)| *is_wanted && !has(word));
        let mut arguments: Vec<OsString> = words.map(|(_, word)| word.into()).collect();
        arguments.push(self.settings.clone().into());
        arguments.extend_from_slice(given);
        arguments
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn image(machine: &str, name: &str, text: &str) -> BootImage {
        let settings = format!("/b/tmp/deploy/images/{machine}/{name}-{machine}.qemuboot.conf").into();
        BootImage { machine: machine.into(), name: name.into(), settings, text: text.into() }
    }

    #[test]
    fn the_newest_build_of_each_image_is_found_and_no_link_leads_out() {
        let build = tempfile::tempdir().unwrap();
        let (new, old) = ("tmp/deploy/images/qemux86-64", "tmp-glibc/deploy/images/qemuarm64");
        let [x86, arm] = [new, old].map(|path| build.path().join(path));
        for directory in [&x86, &arm, &build.path().join("conf"), &build.path().join("tmp-x/deploy")] {
            fs_err::create_dir_all(directory).unwrap();
        }
        fs_err::write(x86.join("a-image-qemux86-64.rootfs-2026.qemuboot.conf"), "qb_mem = -m 256\n").unwrap();
        fs_err::write(x86.join("a-image-qemux86-64.rootfs-2025.qemuboot.conf"), "").unwrap();
        symlink(
            "a-image-qemux86-64.rootfs-2026.qemuboot.conf",
            x86.join("a-image-qemux86-64.rootfs.qemuboot.conf"),
        )
        .unwrap();
        symlink("/etc/passwd", x86.join("out-qemux86-64.qemuboot.conf")).unwrap();
        symlink("gone", x86.join("gone-qemux86-64.qemuboot.conf")).unwrap();
        fs_err::write(arm.join("b-image-qemuarm64.qemuboot.conf"), "").unwrap();
        fs_err::write(arm.join("other.conf"), "").unwrap();
        let found = images(build.path()).unwrap();
        let names: Vec<(&str, &str)> =
            found.iter().map(|one| (one.machine.as_str(), one.name.as_str())).collect();
        assert_eq!(names, [("qemuarm64", "b-image"), ("qemux86-64", "a-image")]);
        assert_eq!(found[1].settings, x86.join("a-image-qemux86-64.rootfs.qemuboot.conf"));
        assert_eq!(found[1].value("qb_mem"), Some("-m 256"));
        assert!(images(&build.path().join("conf")).unwrap().is_empty());
    }

    #[test]
    fn image_names_lose_the_machine() {
        for (stem, wanted) in [
            ("core-image-minimal-m", "core-image-minimal"),
            ("core-image-minimal-m.rootfs", "core-image-minimal"),
            ("core-image-minimal", "core-image-minimal"),
            ("m", "m"),
            ("-m", "-m"),
        ] {
            assert_eq!(image_name(stem, "m"), wanted);
        }
    }

    #[test]
    fn the_only_possible_image_is_chosen() {
        let images = [image("a", "one", ""), image("a", "two", ""), image("b", "one", "")];
        let names = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
        let (a, b, c, two, both) =
            (names(&["a"]), names(&["c", "b"]), names(&["c"]), names(&["two"]), names(&["one", "two"]));
        let plain = |machines| ImageFilter { machines, ..ImageFilter::default() };
        let with = |machines, targets| ImageFilter { targets, ..plain(machines) };
        let named = |machine, image| ImageFilter { machine, image, ..plain(&a) };
        for (wanted, chosen) in [
            (plain(&b), Ok(("b", "one"))),
            (with(&a, &two), Ok(("a", "two"))),
            (named(None, Some("one")), Ok(("a", "one"))),
            (named(Some("b"), None), Ok(("b", "one"))),
            (plain(&a), Err("several images for a: one, two")),
            (with(&a, &both), Err("several images for a: one, two")),
            (named(Some("b"), Some("two")), Err("no image two was built for b; there are one")),
            (named(Some("d"), None), Err("no image of the machine d was built; there are images of a, b")),
            (plain(&c), Err("no image of the manifest's machines (c) was built")),
        ] {
            match (choose(&images, wanted), chosen) {
                (Ok(image), Ok(names)) => assert_eq!((image.machine.as_str(), image.name.as_str()), names),
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (found, wanted) => panic!("{found:?} and not {wanted:?}"),
            }
        }
    }

    #[test]
    fn kvm_needs_the_same_architecture_and_settings() {
        let settings = |system: &str, cpu: &str| {
            format!("[config_bsp]\nqb_cpu_kvm = {cpu}\nqb_system_name = {system}\n")
        };
        for (system, cpu, host, wanted) in [
            ("qemu-system-x86_64", "-cpu host", "x86_64", true),
            ("qemu-system-i386", "-cpu host", "x86_64", true),
            ("qemu-system-aarch64", "-cpu host", "aarch64", true),
            ("qemu-system-aarch64", "-cpu host", "x86_64", false),
            ("qemu-system-x86_64", "", "x86_64", false),
            ("", "-cpu host", "x86_64", false),
        ] {
            let image = image("m", "i", &settings(system, cpu));
            assert_eq!(image.may_use_kvm(host), wanted, "{system} {cpu} on {host}");
        }
    }

    #[test]
    fn the_arguments_of_the_user_have_priority() {
        let words = |kvm, keep, given: &[&str]| {
            let given: Vec<OsString> = given.iter().map(OsString::from).collect();
            let all = image("m", "i", "").arguments(kvm, keep, &given);
            let all: Vec<_> = all.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            all.join(" ").replace("/b/tmp/deploy/images/m/", "")
        };
        let file = "i-m.qemuboot.conf";
        assert_eq!(words(true, false, &[]), format!("nographic slirp kvm snapshot {file}"));
        assert_eq!(words(false, true, &["ext4"]), format!("nographic slirp {file} ext4"));
        assert_eq!(words(true, false, &["gtk", "kvm"]), format!("serialstdio slirp snapshot {file} gtk kvm"));
    }

    #[test]
    fn a_qemu_that_is_gone_is_named() {
        let build = tempfile::tempdir().unwrap();
        let missing = |text: &str| {
            let settings = build.path().join("x.qemuboot.conf");
            BootImage { settings, ..image("m", "i", text) }.missing_qemu()
        };
        assert_eq!(missing("staging_bindir_native = .\n"), None);
        assert_eq!(missing(""), None);
        assert_eq!(missing("staging_bindir_native = ../gone\n"), Some(build.path().join("../gone")));
    }
}
