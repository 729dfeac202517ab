//! Stand-in devices: a real ssh server (dropbear) on loopback for each, and `tests/stand-ins/device.py` behind it.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use build_agent_tests::{repository, skip};

/// Devices of a lab, and the key that they accept.
pub struct Devices {
    pub directory: PathBuf,
    devices: Vec<Device>,
}

struct Device {
    name: String,
    port: u16,
    server: Child,
}

impl Devices {
    /// `None`, with a SKIPPED line, if there is no ssh server.
    pub fn start(test: &str, directory: &Path, names: &[&str]) -> Option<Devices> {
        let guest =
            std::env::var_os("BUILD_AGENT_TEST_GUEST").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        if !guest.join("usr/sbin/dropbear").exists() {
            skip(test, "dropbear-bin is not there; `.ci/run` unpacks it, and sets BUILD_AGENT_TEST_GUEST");
            return None;
        }
        let may_mount = Command::new("unshare").args(["--mount", "true"]).output();
        if !may_mount.is_ok_and(|output| output.status.success()) {
            skip(test, "this user may not mount, which gives each stand-in device a home of its own");
            return None;
        }
        let home = directory.join("home");
        std::fs::create_dir_all(home.join(".ssh")).unwrap();
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(directory.join("key")));
        std::fs::copy(directory.join("key.pub"), home.join(".ssh/authorized_keys")).unwrap();
        for (path, mode) in [("home", 0o700), ("home/.ssh", 0o700), ("home/.ssh/authorized_keys", 0o600)] {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(directory.join(path), mode).unwrap();
        }
        let libraries = ["usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib"];
        let libraries: Vec<String> =
            libraries.iter().map(|path| guest.join(path).display().to_string()).collect();
        let libraries = libraries.join(":");
        let key = directory.join("host-key");
        run(Command::new(guest.join("usr/bin/dropbearkey"))
            .args(["-t", "ed25519", "-f"])
            .arg(&key)
            .env("LD_LIBRARY_PATH", &libraries));
        let mut devices = Devices { directory: directory.to_owned(), devices: Vec::new() };
        for name in names {
            let own = directory.join(name);
            std::fs::create_dir_all(&own).unwrap();
            std::fs::write(own.join("boot"), "first\n").unwrap();
            std::fs::write(own.join("log"), "").unwrap();
            let shell = own.join("shell");
            let script = format!("#!/bin/sh\nexec python3 {} shell {}\n", program().display(), own.display());
            std::fs::write(&shell, script).unwrap();
            std::fs::set_permissions(&shell, std::fs::Permissions::from_mode(0o755)).unwrap();
            devices.devices.push(start(name, directory, &guest, &libraries));
        }
        Some(devices)
    }

    /// The tables of these devices for lab.toml. `key`: more lines of each table.
    pub fn tables(&self, more: &str) -> String {
        let table = |device: &Device| {
            let Device { name, port, .. } = device;
            let own = self.directory.join(name).display().to_string();
            let (program, key) = (program(), self.directory.join("key"));
            format!(
                "[devices.{name}]\npool = \"stand-in\"\nimage = \"*.img\"\n{more}\n[devices.{name}.ssh]\n\
                 host = \"127.0.0.1\"\nport = {port}\nssh_key = \"{key}\"\n\
                 write = [\"python3\", \"{program}\", \"write\", \"{own}\"]\n\
                 restart = [\"python3\", \"{program}\", \"restart\", \"{own}\"]\n",
                program = program.display(),
                key = key.display()
            )
        };
        self.devices.iter().map(table).collect()
    }

    /// What was done with a device.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.join(name).join("log")).unwrap()
    }

    /// Makes a device misbehave.
    pub fn set(&self, name: &str, what: &str, on: bool) {
        let file = self.directory.join(name).join(what);
        match on {
            true => std::fs::write(file, "").unwrap(),
            false => drop(std::fs::remove_file(file)),
        }
    }

    /// Fails if two drove a device at the same time.
    #[track_caller]
    pub fn assert_driven_by_one(&self) {
        for device in &self.devices {
            let log = self.log(&device.name);
            assert!(!log.contains("VIOLATION"), "{}:\n{log}", device.name);
        }
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        for device in &mut self.devices {
            let _ = device.server.kill();
            let _ = device.server.wait();
        }
        for survivor in build_agent_tests::survivors(&self.directory) {
            let pid = nix::unistd::Pid::from_raw(survivor.pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn program() -> PathBuf {
    repository().join("tests/stand-ins/device.py")
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Starts the ssh server of a device. Another process may take the free port first, so this tries several.
fn start(name: &str, directory: &Path, guest: &Path, libraries: &str) -> Device {
    for _ in 0..10 {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let own = directory.join(name);
        // Its users have their keys in their homes.
        let script = "mount --bind \"$1\" \"$HOME\" && shift && exec \"$@\"";
        let mut server = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "device"])
            .arg(directory.join("home"))
            .arg(guest.join("usr/sbin/dropbear"))
            .args(["-F", "-E", "-s", "-r"])
            .arg(directory.join("host-key"))
            .args(["-p", &format!("127.0.0.1:{port}"), "-c"])
            .arg(own.join("shell"))
            .env("LD_LIBRARY_PATH", libraries)
            .env("HOME", "/root")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(own.join("server.log")).unwrap())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while server.try_wait().unwrap().is_none() && Instant::now() < deadline {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Device { name: name.to_owned(), port, server };
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = server.kill();
        let _ = server.wait();
    }
    let log = std::fs::read_to_string(directory.join(name).join("server.log")).unwrap_or_default();
    panic!("the ssh server of {name} does not start:\n{log}");
}
