//! The lab host itself: its state directory, users and programs, and KVM.

use std::collections::BTreeSet;
use std::path::Path;

use agent_devices::lab::{Control, Lab, WriteImage};
use agent_process::{Answer, Prober, User};
use agent_types::error::Result;

use super::super::finding::Finding;
use super::not_local;

/// Where the state directory is, or would be made: prints its type and whether it is writable.
const STATE: &str = r#"
directory=$1
while [ ! -e "$directory" ] && [ "$directory" != / ]; do directory=$(dirname "$directory"); done
echo "type $(stat -f -c %T "$directory")"
if probe=$(mktemp "$directory/.doctor.XXXXXX"); then rm -f "$probe"; echo "writable yes"; fi
"#;

/// Prints the programs that are not there.
const PROGRAMS: &str = r#"
for program do
  command -v -- "$program" >/dev/null || echo "missing $program"
done
"#;

/// Prints whether KVM can be opened.
const KVM: &str = r#"
if [ ! -e /dev/kvm ]; then echo "kvm absent"
elif [ -r /dev/kvm ] && [ -w /dev/kvm ]; then echo "kvm usable"
else echo "kvm refused"; fi
"#;

pub async fn gather_state(prober: &Prober, state: &Path) -> Answer {
    prober.script("state", STATE, &[&state.to_string_lossy()], None).await
}

pub fn judge_state(state: &Path, answer: &Answer) -> Finding {
    const NAME: &str = "state directory";
    let shown = state.display();
    let Some(kind) = answer.value("type") else {
        let fix = "name a local directory with `state` in lab.toml";
        return Finding::failed(NAME, format!("{shown}: {}", answer.complaint()), fix);
    };
    if let Some(finding) = not_local(NAME, state, kind) {
        return finding;
    }
    match answer.value("writable") {
        Some(_) => Finding::ok(NAME, format!("{shown}, on {kind}")),
        None => {
            let fix = format!("mkdir -p {shown}, and give it to the user that runs the lab");
            Finding::failed(NAME, format!("{shown} is not writable"), fix)
        }
    }
}

pub fn judge_user(agent_is_root: bool, user: &Result<Option<User>>) -> Finding {
    const NAME: &str = "build user";
    match user {
        Ok(Some(user)) => Finding::ok(NAME, format!("{}, who runs exported tests and guests", user.name)),
        Ok(None) if agent_is_root => {
            Finding::failed(NAME, "exported tests would run as root", "useradd -m builder")
        }
        Ok(None) => Finding::warning(
            NAME,
            "exported tests run as the lab's own user, and can read its keys and its store",
            "run the lab as root with `build_user` in lab.toml, or test only images of people you trust",
        ),
        Err(error) => {
            let fix =
                error.hint.clone().unwrap_or_else(|| "name a user with `build_user` in lab.toml".into());
            Finding::failed(NAME, error.message.clone(), fix)
        }
    }
}

/// The programs of the lab, and why each is needed.
fn programs(lab: &Lab) -> Vec<(String, &'static str)> {
    let mut programs = vec![("ssh".to_owned(), "install openssh-client")];
    for device in &lab.devices {
        if device.image.is_some() {
            let unpack = ["bash", "gzip", "bzip2", "xz", "zstd"];
            programs.extend(
                unpack.map(|program| (program.to_owned(), "install it: images are unpacked with it")),
            );
        }
        let own: Vec<&Vec<String>> = match &device.control {
            Control::Labgrid(place) => match &place.write {
                WriteImage::Command(words) => vec![words],
                WriteImage::WriteImage => Vec::new(),
            },
            Control::Ssh(device) => device.write.iter().chain(&device.restart).collect(),
            Control::Qemu(_) | Control::Lava(_) => Vec::new(),
        };
        let own = own.into_iter().filter_map(|words| words.first().cloned());
        programs.extend(own.map(|program| (program, "install it, or correct the program in lab.toml")));
    }
    let mut seen = BTreeSet::new();
    programs.retain(|(program, _)| seen.insert(program.clone()));
    programs
}

pub async fn gather_programs(prober: &Prober, lab: &Lab) -> Answer {
    let programs = programs(lab);
    let words: Vec<&str> = programs.iter().map(|(program, _)| program.as_str()).collect();
    prober.script("programs", PROGRAMS, &words, None).await
}

pub fn judge_programs(lab: &Lab, answer: &Answer) -> Vec<Finding> {
    const NAME: &str = "programs";
    let Answer::Said { lines, .. } = answer else {
        return vec![Finding::failed(NAME, answer.complaint(), "run the doctor again")];
    };
    let programs = programs(lab);
    let missing: Vec<Finding> = programs
        .iter()
        .filter(|(program, _)| lines.iter().any(|line| *line == format!("missing {program}")))
        .map(|(program, fix)| Finding::failed(NAME, format!("{program} is not there"), *fix))
        .collect();
    match missing.is_empty() {
        true => vec![Finding::ok(NAME, format!("all {} are there", programs.len()))],
        false => missing,
    }
}

pub async fn gather_kvm(prober: &Prober, user: Option<&User>) -> Answer {
    prober.script("kvm", KVM, &[], user).await
}

pub fn judge_kvm(answer: &Answer) -> Finding {
    const NAME: &str = "KVM";
    match answer.value("kvm") {
        Some("usable") => {
            Finding::ok(NAME, "/dev/kvm can be opened; guests of other architectures are emulated")
        }
        Some("refused") => Finding::warning(
            NAME,
            "the user that runs QEMU cannot open /dev/kvm, so that guests are emulated and slow",
            "usermod -aG kvm USER",
        ),
        _ => Finding::warning(
            NAME,
            "there is no /dev/kvm, so that guests are emulated and slow",
            "use a machine with virtualization, or allow more time with `boot` in lab.toml",
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::super::finding::State;
    use super::*;
    use agent_types::error::Error;

    fn said(lines: &[&str]) -> Answer {
        Answer::Said { ok: true, lines: lines.iter().map(|line| (*line).to_owned()).collect() }
    }

    #[test]
    fn the_state_directory_is_local_and_writable() {
        for (lines, state, found) in [
            (&["type ext2/ext3", "writable yes"][..], State::Ok, "/s, on ext2/ext3"),
            (&["type ext2/ext3"][..], State::Failed, "/s is not writable"),
            (&["type nfs", "writable yes"][..], State::Failed, "/s is on nfs"),
            (&["nonsense"][..], State::Failed, "/s: nonsense"),
        ] {
            let finding = judge_state(Path::new("/s"), &said(lines));
            assert_eq!((finding.state, finding.found.as_str()), (state, found));
        }
    }

    #[test]
    fn tests_never_run_as_root() {
        let user = User { name: "builder".into(), uid: 1, gid: 1, home: "/".into() };
        for (is_root, user, state) in [
            (true, Ok(Some(user)), State::Ok),
            (true, Ok(None), State::Failed),
            (false, Ok(None), State::Warning),
            (true, Err(Error::machine("no user")), State::Failed),
        ] {
            assert_eq!(judge_user(is_root, &user).state, state, "{user:?}");
        }
    }

    #[test]
    fn kvm_is_only_a_matter_of_speed() {
        for (line, state) in
            [("kvm usable", State::Ok), ("kvm refused", State::Warning), ("kvm absent", State::Warning)]
        {
            assert_eq!(judge_kvm(&said(&[line])).state, state);
        }
    }
}
