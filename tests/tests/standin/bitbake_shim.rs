//! The agent's binary as the `bitbake` shim: its callers must not notice it.

use std::os::unix::fs::{PermissionsExt, symlink};

/// A directory with the agent's binary as `bitbake`, and a directory with the real program.
struct ShimFixture(tempfile::TempDir);

impl ShimFixture {
    fn new(program: &str) -> ShimFixture {
        let fixture = ShimFixture(tempfile::tempdir().unwrap());
        for directory in ["front", "real"] {
            std::fs::create_dir(fixture.0.path().join(directory)).unwrap();
        }
        symlink(build_agent_tests::agent().get_program(), fixture.0.path().join("front/bitbake")).unwrap();
        let real = fixture.0.path().join("real/bitbake");
        std::fs::write(&real, format!("#!/bin/sh\n{program}\n")).unwrap();
        std::fs::set_permissions(real, std::fs::Permissions::from_mode(0o755)).unwrap();
        fixture
    }

    /// Calls it in a shell, like yocto-check-layer; with or without the shim first on PATH.
    fn call(&self, with: bool, words: &str) -> std::process::Output {
        let fixture = self.0.path().display();
        let front = if with { format!("{fixture}/front:") } else { String::new() };
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(["-c", &format!("echo input | BB_SIGNATURE_HANDLER=OEBasicHash bitbake {words}")]);
        shell
            .env_clear()
            .env("PATH", format!("{front}{fixture}/real:/usr/bin:/bin"))
            .current_dir(self.0.path());
        shell.output().unwrap()
    }
}

/// Without a server, the real program must not notice the shim.
#[test]
fn the_shim_without_a_server_acts_as_the_real_bitbake() {
    let programs = [
        "cat; printf '%s|' \"$0\" \"$@\"; env | sort; pwd; umask; echo error >&2; exit 7",
        "kill -TERM $$",
        "kill -KILL $$",
        "printf '\\377\\000x'",
    ];
    for program in programs {
        let fixture = ShimFixture::new(program);
        for words in ["-e", "-p", "-S lockedsigs world", "-S none world", "'a b' '' '*'"] {
            assert_eq!(fixture.call(true, words), fixture.call(false, words), "{program}: {words}");
        }
    }
}

/// A server that returns the same outcome to every caller. With `None`, it closes the connection.
fn cache_server(fixture: &ShimFixture, outcome: Option<Vec<Vec<u8>>>) {
    use std::io::{Read, Write};
    let socket = fixture.0.path().join("front/agent.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            let mut message = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut message).unwrap();
            let Some(outcome) = &outcome else { continue };
            let packed = outcome
                .iter()
                .flat_map(|part| [&(part.len() as u64).to_be_bytes(), part.as_slice()].concat());
            let reply: Vec<u8> = packed.collect();
            stream.write_all(&(reply.len() as u32).to_be_bytes()).unwrap();
            stream.write_all(&reply).unwrap();
        }
    });
}

/// The agent ran BitBake: the caller of the shim must not notice the difference.
#[test]
fn the_shim_returns_the_servers_result_unchanged() {
    let long = "yes a long line of output | head -c 9000000";
    let programs = [
        ("printf '\\377\\000x'; echo error >&2; exit 7", "exited", 7, b"\xff\0x".to_vec(), "error\n", None),
        ("kill -TERM $$", "signal", 15, Vec::new(), "", None),
        ("kill -KILL $$", "signal", 9, Vec::new(), "", None),
        ("echo x > locked-sigs.inc", "exited", 0, Vec::new(), "", Some("x\n")),
        (
            long,
            "exited",
            0,
            "a long line of output\n".repeat(500_000).into_bytes()[..9_000_000].to_vec(),
            "",
            None,
        ),
    ];
    for (program, word, number, stdout, stderr, signatures) in programs {
        let fixture = ShimFixture::new(program);
        let plain = fixture.call(false, "-S lockedsigs world");
        let file = fixture.0.path().join("locked-sigs.inc");
        let left = std::fs::read_to_string(&file).ok();
        assert_eq!(left.as_deref(), signatures, "{program}");
        let _ = std::fs::remove_file(&file);
        let outcome = vec![
            word.as_bytes().to_vec(),
            i32::to_be_bytes(number).to_vec(),
            stdout,
            stderr.as_bytes().to_vec(),
            u64::from(signatures.is_some()).to_be_bytes().to_vec(),
            signatures.unwrap_or_default().as_bytes().to_vec(),
        ];
        cache_server(&fixture, Some(outcome));
        assert_eq!(fixture.call(true, "-S lockedsigs world"), plain, "{program}");
        assert_eq!(std::fs::read_to_string(&file).ok(), left, "{program}");
    }
}

/// Whatever the call, and with or without a server.
#[test]
fn the_shim_starts_nothing_while_the_job_is_being_stopped() {
    for has_server in [false, true] {
        let fixture = ShimFixture::new("echo started");
        if has_server {
            cache_server(&fixture, None);
        }
        std::fs::write(fixture.0.path().join("front/stopping"), "").unwrap();
        for words in ["-e", "-p", "--version", "-S lockedsigs world"] {
            let output = fixture.call(true, words);
            assert_eq!((output.status.code(), &*output.stdout), (Some(130), &b""[..]), "{words}");
            let output_text = String::from_utf8_lossy(&output.stderr);
            assert!(
                output_text.contains("not started, because the job is being stopped"),
                "{words}: {output_text}"
            );
        }
    }
}

/// The check is being stopped: nothing new starts.
#[test]
fn the_shim_ends_if_the_server_closes_the_connection() {
    let fixture = ShimFixture::new("echo started");
    cache_server(&fixture, None);
    let output = fixture.call(true, "-p");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(143), &b""[..]), "{output:?}");
}

#[test]
fn the_shim_reports_a_missing_bitbake() {
    let fixture = ShimFixture::new("");
    std::fs::remove_file(fixture.0.path().join("real/bitbake")).unwrap();
    let output = fixture.call(true, "-p");
    assert_eq!(output.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not found"));
}
