//! Whether guests can use KVM on this machine. OE-Core uses KVM if the architectures fit, and does not check the device.

/// Runs one instruction in a virtual processor; its only line begins with [`WORKS`] or [`FAILS`].
pub const SCRIPT: &str = include_str!("kvm_probe.py");

const WORKS: &str = "kvm works";
const FAILS: &str = "kvm fails ";

/// Parses the script's output.
///
/// # Errors
/// Why KVM cannot be used.
pub fn judge(lines: &[String]) -> Result<(), String> {
    match lines.iter().find(|line| line.starts_with("kvm ")) {
        Some(line) if line == WORKS => Ok(()),
        Some(line) => Err(line.strip_prefix(FAILS).unwrap_or(line).to_owned()),
        None => Err("the probe gave no answer".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_answer_counts() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(judge(&lines("warning: x\nkvm works")), Ok(()));
        for (said, why) in [
            (
                "kvm fails [Errno 13] Permission denied: '/dev/kvm'",
                "[Errno 13] Permission denied: '/dev/kvm'",
            ),
            ("kvm works not", "kvm works not"),
            ("", "the probe gave no answer"),
            ("Killed", "the probe gave no answer"),
        ] {
            assert_eq!(judge(&lines(said)), Err(why.to_owned()), "{said}");
        }
    }
}
