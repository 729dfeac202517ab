//! Files of a lab: keys and tokens that nobody else may read, and installations of Device Tester.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use agent_devices::lab::DeviceTester;
use agent_process::{Answer, Prober};

use super::super::finding::Finding;
use super::{not_local, of_device};

/// The program of Device Tester.
const PROGRAM: &str = "bin/devicetester_linux_x86-64";

/// Prints the type of a directory and whether the program is there.
const TESTER: &str = r#"
echo "type $(stat -f -c %T "$1")"
if [ -x "$1/$2" ]; then echo "program yes"; fi
"#;

/// A file that others must not read: ssh refuses a key that they can.
pub fn private_file(device: &str, what: &str, file: &Path) -> Finding {
    let name = of_device(device, what);
    let shown = file.display();
    match fs_err::metadata(file) {
        Ok(metadata) if metadata.permissions().mode() & 0o077 == 0 => Finding::ok(name, shown.to_string()),
        Ok(_) => Finding::failed(name, format!("others can read {shown}"), format!("chmod 600 {shown}")),
        Err(error) => Finding::failed(name, error.to_string(), "correct its path in lab.toml"),
    }
}

pub async fn tester(prober: &Prober, tester: &DeviceTester) -> Option<Finding> {
    let directory = tester.directory.as_ref()?;
    let answer = prober.script("tester", TESTER, &[&directory.to_string_lossy(), PROGRAM], None).await;
    Some(judge_tester(&tester.suite, directory, &answer))
}

fn judge_tester(suite: &str, directory: &Path, answer: &Answer) -> Finding {
    let name = format!("Device Tester {suite}");
    let shown = directory.display();
    let fix = "unpack the zip of Device Tester there, on a local disk";
    let Some(kind) = answer.value("type").filter(|kind| !kind.is_empty()) else {
        return Finding::failed(name, format!("{shown}: {}", answer.complaint()), fix);
    };
    if let Some(finding) = not_local(&name, directory, kind) {
        return finding;
    }
    match answer.value("program") {
        Some(_) => Finding::ok(name, shown.to_string()),
        None => Finding::failed(name, format!("{shown} has no {PROGRAM}"), fix),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::super::finding::State;
    use super::*;

    #[test]
    fn keys_are_private() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key");
        fs_err::write(&key, "").unwrap();
        for (mode, state) in
            [(0o600, State::Ok), (0o400, State::Ok), (0o640, State::Failed), (0o604, State::Failed)]
        {
            fs_err::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(private_file("d", "ssh key", &key).state, state, "{mode:o}");
        }
        assert_eq!(private_file("d", "ssh key", &directory.path().join("none")).state, State::Failed);
    }

    #[test]
    fn device_tester_is_there_and_on_a_local_disk() {
        let said = |lines: &[&str]| Answer::Said {
            ok: true,
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        for (answer, state) in [
            (said(&["type ext2/ext3", "program yes"]), State::Ok),
            (said(&["type ext2/ext3"]), State::Failed),
            (said(&["type nfs", "program yes"]), State::Failed),
            (said(&["type "]), State::Failed),
            (Answer::Nothing("no answer".into()), State::Failed),
        ] {
            assert_eq!(judge_tester("GGV2Q", Path::new("/idt"), &answer).state, state, "{answer:?}");
        }
    }
}
