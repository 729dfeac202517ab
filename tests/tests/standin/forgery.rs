//! Layer code that wants a later version of the layer to pass. It queries the world without the layer with the inputs
//! of a later job, and supplies a forged result. No later job may use that result.

use std::path::PathBuf;

use build_agent_tests::cases;

use crate::signature_cache::{CheckJob, outcomes, queries};

/// Code that a recipe could run while it is parsed. It speaks the old protocol, in which the shim reported BitBake's
/// result, and writes the result file while another BitBake runs.
const ATTACK: &str = r##"
import os, socket, struct, sys, threading, time, traceback

build = os.environ["BUILDDIR"]

def real_build():
    """The check's own build directory, also from a room: where the shim waits for the world with the class, which the
    test holds up. Nothing can be learnt of the tool itself."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    is_shim = file.read().startswith(b"bitbake\0")
                with open(f"/proc/{pid}/environ", "rb") as file:
                    is_shim = is_shim and b"\0INHERIT=" in b"\0" + file.read()
                program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
                if is_shim and program.startswith("build-agent") and os.readlink(f"/proc/{pid}/cwd") == build:
                    return f"/proc/self/fd/{os.open(f'/proc/{pid}/cwd', os.O_DIRECTORY)}"
            except OSError:
                pass
        time.sleep(0.005)
    raise RuntimeError("no shim waits in the check's build directory")

def part(content):
    return struct.pack(">Q", len(content)) + content

def number(value):
    return part(struct.pack(">Q", value))

def maybe(content):
    return number(1) + part(content)

def send(server, message):
    server.sendall(struct.pack(">I", len(message)) + message)

def receive(server):
    length = struct.unpack(">I", server.recv(4, socket.MSG_WAITALL))[0]
    return server.recv(length, socket.MSG_WAITALL)

EMPTY = b'SIGGEN_LOCKEDSIGS_t-x = "\\\n    "\n'

def ask(at):
    """As the shim asks, and then as it told what BitBake gave."""
    message = part(b"ask") + part(build.encode()) + number(0o22) + number(1) + number(3)
    message += b"".join(map(part, [b"-S", b"lockedsigs", b"world"]))
    for name, value in question.items():
        message += part(name.encode()) + part(value.encode())
    over = []
    def race():
        while not over:
            with open(f"{at}/locked-sigs.inc", "wb") as file:
                file.write(EMPTY)
            time.sleep(0.0005)
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(3)
        server.connect(os.path.join(os.path.dirname(os.path.dirname(build)), "shim", "agent.sock"))
        racer = threading.Thread(target=race)
        racer.start()
        try:
            send(server, message)
            reply = receive(server)
            if reply == part(b"run"):
                told = part(b"ran") + maybe(struct.pack(">i", 0))
                send(server, told + maybe(b"NOTE: done\n") + maybe(b"") + maybe(EMPTY))
                receive(server)
        finally:
            over.append(True)
            racer.join()
            if os.path.exists(f"{at}/locked-sigs.inc"):
                os.unlink(f"{at}/locked-sigs.inc")

def forge():
    at = real_build()
    names = [f"{at}/conf/bblayers.conf", f"{at}/conf/local.conf"]
    saved = {}
    for name in names:
        with open(name, "rb") as file:
            saved[name] = file.read()
    bblayers, local = saved[names[0]], open(f"{notes}/wanted", "rb").read()
    try:
        for name, content in zip(names, [bblayers[:bblayers.rindex(b"\nBBLAYERS += ")], local]):
            with open(name, "wb") as file:
                file.write(content)
        ask(at)
    finally:
        for name, content in saved.items():
            with open(name, "wb") as file:
                file.write(content)

def attack():
    try:
        forge()
        said = "well"
    except Exception:
        said = traceback.format_exc()
    with open(f"{notes}/asked", "w") as file:
        file.write(said)

# Part two
if WHEN and not os.path.exists(f"{notes}/begun"):
    open(f"{notes}/begun", "w").close()
    question = {name: value for name, value in os.environ.items() if name != "INHERIT"}
    question["BB_ENV_PASSTHROUGH_ADDITIONS"] = question["BB_ENV_PASSTHROUGH_ADDITIONS"].removesuffix(" INHERIT")
    if not LINGER:
        attack()
    elif os.fork() == 0:
        # Nothing betrays it: neither a session nor a variable.
        os.setsid()
        with open(code, encoding="utf-8") as file:
            text = file.read()
        known = {"notes": notes, "build": build, "question": question}
        program = "known = " + repr(known) + "\n" + text.split("# Part two")[0]
        program += "globals().update(known)\nimport time\ntime.sleep(0.2)\nattack()\n"
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        os.execve(sys.executable, ["python3", "-c", program], {"BUILDDIR": build})
"##;

impl CheckJob {
    /// A job on its own machine, with a share, for a pull request or for a branch.
    fn run_with(&self, share: bool, trusted: bool, plainly: bool, code: i32) -> serde_json::Value {
        let mut command = self.command(share, trusted);
        if plainly {
            command.arg("--no-signature-cache");
        }
        self.0.start(command).wait().assert_code(&[code]);
        self.0.result()
    }

    fn command(&self, share: bool, trusted: bool) -> std::process::Command {
        let mut command = self.0.run_command();
        if trusted {
            command.arg("--trusted");
        } else if share {
            command.env("CODEBUILD_BUILD_ID", "p:1").env("CODEBUILD_SRC_DIR", self.0.layer());
            command.env("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED");
            command.env("CODEBUILD_WEBHOOK_TRIGGER", "pr/12");
        }
        command
    }

    fn local_conf(&self) -> PathBuf {
        self.work_dir().join("check/meta-tested/conf/local.conf")
    }
}

fn a_later_version_does_not_pass(test: &str, share: bool, lingers: bool) {
    // Its queries stop the prefetch: so the tool itself must send the query, or the attack must outlive the prefetch.
    let Some(check) = CheckJob::with_bitbakes(test, if lingers { 2 } else { 1 }) else { return };
    if share {
        let share = check.0.path().join("share");
        std::fs::create_dir(&share).unwrap();
        check.0.change_manifest("[check]", &format!("[cache]\nshare = {share:?}\n\n[check]"));
        // Stores the checkouts on the share.
        check.run_with(true, true, false, 0);
    }
    let manifest = std::fs::read_to_string(check.0.manifest()).unwrap();
    let later = manifest.replace("[check]", "[config]\nlocal_conf = 'SALT = \"1\"'\n\n[check]");
    // The author of a pull request can find out how the agent configures its next version.
    check.0.write_manifest(&later);
    check.run_with(share, false, true, 0);
    std::fs::copy(check.local_conf(), check.note("wanted")).unwrap();
    check.0.write_manifest(&manifest);

    let (linger, when) = if lingers {
        ("True", "'BB_SIGNATURE_HANDLER' in os.environ and 'INHERIT' not in os.environ")
    } else {
        ("False", "'INHERIT' in os.environ")
    };
    let attack = ATTACK.replace("LINGER", linger).replace("WHEN", when);
    let hold = check.note("hold yocto-check-layer");
    if lingers {
        // Keeps the tool running until the attack sends its query.
        std::fs::write(&hold, "").unwrap();
    }
    std::fs::write(check.in_layer("parsed.py"), attack).unwrap();
    let mut running = check.0.start(check.command(share, false));
    running.wait_until("the end of the attack", || check.note("asked").exists());
    let _ = std::fs::remove_file(&hold);
    running.wait().assert_code(&[0]);
    // While another BitBake runs in that directory, the agent does not reply.
    let attacked = std::fs::read_to_string(check.note("asked")).unwrap();
    assert!(attacked == "well" || attacked.contains("timed out"), "{attacked}");
    std::fs::remove_file(check.in_layer("parsed.py")).unwrap();

    std::fs::write(check.in_layer("recipes-hello/zlib_%.bbappend"), "A = \"1\"\n").unwrap();
    check.0.write_manifest(&later);
    if share {
        // The next push is built on another machine.
        std::fs::remove_dir_all(check.0.work()).unwrap();
    }
    let fast = check.run_with(share, false, false, 1);
    assert_eq!(outcomes(&fast)[0], "miss", "{:#?}", queries(&fast));
    let plain = check.run_with(share, false, true, 1);
    assert_eq!(cases(&fast), cases(&plain));

    // Honest versions use the results of honest versions.
    std::fs::remove_file(check.in_layer("recipes-hello/zlib_%.bbappend")).unwrap();
    check.run_with(share, false, false, 0);
    std::fs::write(check.in_layer("recipes-hello/hello/hello_1.0.bb"), "A = \"2\"\n").unwrap();
    assert_eq!(outcomes(&check.run_with(share, false, false, 0))[0], "hit");
    assert_eq!(outcomes(&check.run_with(share, false, false, 0)), ["hit"; 5]);
}

#[test]
fn layer_code_cannot_forge_a_result_for_a_later_job() {
    a_later_version_does_not_pass("layer_code_cannot_forge_a_result_for_a_later_job", false, false);
}

#[test]
fn lingering_layer_code_cannot_forge_a_result() {
    a_later_version_does_not_pass("lingering_layer_code_cannot_forge_a_result", false, true);
}

#[test]
fn layer_code_cannot_forge_a_result_for_the_next_push() {
    let test = "layer_code_cannot_forge_a_result_for_the_next_push";
    a_later_version_does_not_pass(test, true, false);
}

/// The tool reads `conf/layer.conf` before its first query, so code there influences every result.
#[test]
fn code_before_the_first_query_prevents_storing_its_result() {
    let test = "code_before_the_first_query_prevents_storing_its_result";
    let Some(check) = CheckJob::new(test) else { return };
    let path = check.in_layer("conf/layer.conf");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}LAYERVERSION_tested = \"${{@1 + 1}}\"\n")).unwrap();
    for expected in [["miss", "ahead", "ahead", "ahead", "ahead"], ["miss", "hit", "hit", "hit", "hit"]] {
        let result = check.run(0);
        assert_eq!(outcomes(&result), expected, "{:#?}", queries(&result));
        assert!(
            queries(&result)[0].1.contains("runs code before the first query"),
            "{:#?}",
            queries(&result)
        );
    }
}
