//! Real labgrid on loopback: coordinator, exporter, and boards behind a stand-in for a power switch.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use build_agent_tests::{Part, repository, skip_without};

/// For a program to answer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A port of loopback that nobody uses now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A child that ends with the value.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // The stand-in ends its guest when it gets SIGTERM.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.0.id() as i32),
            nix::sys::signal::Signal::SIGTERM,
        );
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.0.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A board: a guest of QEMU behind a power switch, with a storage for its image, a serial console and ssh.
pub struct Board {
    directory: PathBuf,
    pdu: u16,
    pub serial: u16,
    pub ssh: u16,
    _program: Program,
}

impl Board {
    /// A board that is off, in `directory/board`.
    pub fn start(directory: &Path, kernel: &Path) -> Board {
        let directory = directory.join("board");
        std::fs::create_dir(&directory).unwrap();
        let [pdu, serial, ssh] = [free_port(), free_port(), free_port()];
        let mut command = Command::new("python3");
        command.arg(repository().join("tests/stand-ins/pdu.py")).arg(pdu.to_string());
        command.args([directory.join("power.log"), directory.join("storage")]).arg(kernel);
        command.args([serial.to_string(), ssh.to_string()]).stdin(Stdio::null());
        let program = Program(command.spawn().unwrap());
        wait_for("the power switch", || TcpStream::connect(("127.0.0.1", pdu)).is_ok());
        Board { directory, pdu, serial, ssh, _program: program }
    }

    /// The file that the board boots.
    pub fn storage(&self) -> PathBuf {
        self.directory.join("storage")
    }

    /// The address of its power.
    pub fn relay(&self) -> String {
        format!("http://127.0.0.1:{}/relay/0/value", self.pdu)
    }

    pub fn switch(&self, value: &str) {
        self.http(&format!("PUT /relay/0/value HTTP/1.0\r\nContent-Length: {}\r\n\r\n{value}", value.len()));
    }

    pub fn is_on(&self) -> bool {
        self.http("GET /relay/0/value HTTP/1.0\r\n\r\n").ends_with('1')
    }

    fn http(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.pdu)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Each change of its power.
    pub fn power_log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.directory.join("power.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// Coordinator and exporter.
pub struct LabgridServers {
    programs: PathBuf,
    port: u16,
    _programs: Vec<Program>,
}

impl LabgridServers {
    /// Labgrid with the board as the place `board`; `None`, with a SKIPPED line, if there is no labgrid.
    pub fn start(test: &str, directory: &Path, board: &Board) -> Option<LabgridServers> {
        let programs =
            PathBuf::from(std::env::var_os("BUILD_AGENT_TEST_VENV").unwrap_or_default()).join("bin");
        if !programs.join("labgrid-coordinator").exists() {
            skip_without(Part::Labgrid, test, "no labgrid in $BUILD_AGENT_TEST_VENV (pip install labgrid)");
            return None;
        }
        let directory = directory.join("labgrid");
        std::fs::create_dir(&directory).unwrap();
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let start = |name: &str, words: &[&str]| {
            let log = std::fs::File::create(directory.join(format!("{name}.log"))).unwrap();
            let mut command = Command::new(programs.join(name));
            command.args(words).current_dir(&directory).stdin(Stdio::null());
            command.stdout(log.try_clone().unwrap()).stderr(log);
            Program(command.spawn().unwrap())
        };
        let coordinator = start("labgrid-coordinator", &["-l", &address]);
        let resources = format!(
            "board:\n\
             \x20 NetworkPowerPort: {{ model: rest, host: 'http://127.0.0.1:{}/relay/{{index}}/value', index: '0' }}\n\
             \x20 NetworkSerialPort: {{ host: 127.0.0.1, port: {}, protocol: raw }}\n\
             \x20 NetworkService: {{ address: 127.0.0.1, port: {}, username: root }}\n",
            board.pdu, board.serial, board.ssh
        );
        std::fs::write(directory.join("exporter.yaml"), resources).unwrap();
        wait_for("the coordinator", || TcpStream::connect(&address).is_ok());
        let exporter = start("labgrid-exporter", &["-c", &address, "-n", "lab", "exporter.yaml"]);
        let servers = LabgridServers { programs, port, _programs: vec![exporter, coordinator] };
        assert!(servers.client("test/test", &["create"]).0);
        assert!(servers.client("test/test", &["add-match", "lab/board/*"]).0);
        wait_for("the exporter", || servers.client("test/test", &["show"]).1.contains("NetworkService'"));
        Some(servers)
    }

    /// The tables of lab.toml for the place.
    pub fn device(&self, board: &Board, more: &str) -> String {
        format!(
            "[devices.board]\npool = \"boards\"\nimage = \"*.cpio.gz\"\n{more}\
             [devices.board.labgrid]\ncoordinator = \"127.0.0.1:{}\"\nplace = \"board\"\nclient = \"{}\"\n\
             write = [\"sh\", \"-c\", \"cp \\\"$1\\\" \\\"$0\\\"\", \"{}\"]\n",
            self.port,
            self.programs.join("labgrid-client").display(),
            board.storage().display()
        )
    }

    /// Runs `labgrid-client` as this owner; whether it succeeded, and what it printed.
    pub fn client(&self, owner: &str, words: &[&str]) -> (bool, String) {
        let (host, user) = owner.split_once('/').unwrap();
        let mut command = Command::new(self.programs.join("labgrid-client"));
        command.args(["-x", &format!("127.0.0.1:{}", self.port), "-p", "board"]).args(words);
        command.env("LG_HOSTNAME", host).env("LG_USERNAME", user);
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// `USER HOST` of the place's owner.
    pub fn owner(&self) -> Option<String> {
        let (_, who) = self.client("test/test", &["who"]);
        let words: Vec<&str> = who.lines().nth(1)?.split_whitespace().collect();
        Some(format!("{}/{}", words.get(1)?, words.first()?))
    }
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} does not answer");
        std::thread::sleep(Duration::from_millis(100));
    }
}
