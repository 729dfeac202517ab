//! The agent's binary as `bitbake`: what it calls must not notice.

use std::os::unix::fs::{PermissionsExt, symlink};

/// A directory with the agent's binary as `bitbake`, and one with a program behind it.
struct Fronted(tempfile::TempDir);

impl Fronted {
    fn new(program: &str) -> Fronted {
        let place = Fronted(tempfile::tempdir().unwrap());
        for directory in ["front", "real"] {
            std::fs::create_dir(place.0.path().join(directory)).unwrap();
        }
        symlink(build_agent_tests::agent().get_program(), place.0.path().join("front/bitbake")).unwrap();
        let real = place.0.path().join("real/bitbake");
        std::fs::write(&real, format!("#!/bin/sh\n{program}\n")).unwrap();
        std::fs::set_permissions(real, std::fs::Permissions::from_mode(0o755)).unwrap();
        place
    }

    /// Behind a shell, as yocto-check-layer calls it; with the stand-in before it or without.
    fn call(&self, with: bool, words: &str) -> std::process::Output {
        let place = self.0.path().display();
        let front = if with { format!("{place}/front:") } else { String::new() };
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(["-c", &format!("echo input | BB_SIGNATURE_HANDLER=OEBasicHash bitbake {words}")]);
        shell
            .env_clear()
            .env("PATH", format!("{front}{place}/real:/usr/bin:/bin"))
            .current_dir(self.0.path());
        shell.output().unwrap()
    }
}

/// Nobody is there to ask: the real program must not notice that it was called by another.
#[test]
fn the_stand_in_alone_is_the_real_bitbake() {
    let programs = [
        "cat; printf '%s|' \"$0\" \"$@\"; env | sort; pwd; umask; echo error >&2; exit 7",
        "kill -TERM $$",
        "kill -KILL $$",
        "printf '\\377\\000x'",
    ];
    for program in programs {
        let fronted = Fronted::new(program);
        for words in ["-e", "-p", "-S lockedsigs world", "-S none world", "'a b' '' '*'"] {
            assert_eq!(fronted.call(true, words), fronted.call(false, words), "{program}: {words}");
        }
    }
}

/// A desk that always wants to know what the real program gives.
fn curious_desk(fronted: &Fronted) {
    use std::io::{Read, Write};
    let listener = std::os::unix::net::UnixListener::bind(fronted.0.path().join("front/desk")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            for word in ["run", "noted"] {
                let mut length = [0; 4];
                if stream.read_exact(&mut length).is_err() {
                    return;
                }
                let mut message = vec![0; u32::from_be_bytes(length) as usize];
                stream.read_exact(&mut message).unwrap();
                let reply = [&(word.len() as u64).to_be_bytes(), word.as_bytes()].concat();
                stream.write_all(&(reply.len() as u32).to_be_bytes()).unwrap();
                stream.write_all(&reply).unwrap();
            }
        }
    });
}

#[test]
fn a_real_bitbake_that_is_watched_is_the_same() {
    let programs = [
        "cat; printf '%s|' \"$0\" \"$@\"; env | sort; pwd; umask; echo error >&2; exit 7",
        "kill -TERM $$",
        "kill -KILL $$",
        "printf '\\377\\000x'; echo x > locked-sigs.inc",
        "yes a long line of output | head -c 9000000",
    ];
    for program in programs {
        let fronted = Fronted::new(program);
        curious_desk(&fronted);
        for words in ["-p", "-S lockedsigs world", "-k -S none world 2>&1"] {
            assert_eq!(fronted.call(true, words), fronted.call(false, words), "{program}: {words}");
        }
    }
}

/// Whatever it is asked, and whether somebody answers or not.
#[test]
fn the_stand_in_starts_nothing_when_the_job_is_being_stopped() {
    for desk in [false, true] {
        let fronted = Fronted::new("echo started");
        if desk {
            curious_desk(&fronted);
        }
        std::fs::write(fronted.0.path().join("front/stopping"), "").unwrap();
        for words in ["-e", "-p", "--version", "-S lockedsigs world"] {
            let output = fronted.call(true, words);
            assert_eq!((output.status.code(), &*output.stdout), (Some(130), &b""[..]), "{words}");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("not started, because the job is being stopped"), "{words}: {said}");
        }
    }
}

#[test]
fn the_stand_in_says_when_there_is_no_bitbake() {
    let fronted = Fronted::new("");
    std::fs::remove_file(fronted.0.path().join("real/bitbake")).unwrap();
    let output = fronted.call(true, "-p");
    assert_eq!(output.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not found"));
}
