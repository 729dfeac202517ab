//! Layer code and the build's credentials, with real users, namespaces of their own, and a stand-in for the servers that
//! give credentials: `tests/credential_isolation/machine`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

use build_agent_tests::{BUILD_USER, Ran, Sandbox, agent, leaks_of, repository, skip};
use serde_json::Value;

const CONTAINER: &str = "169.254.170.2";
const INSTANCE: &str = "169.254.169.254";
const ALL: &str = "169.254.170.2 169.254.170.23 169.254.169.254 fd00:ec2::23 fd00:ec2::254";

/// The path on the container's server, which never leaves its file.
const PATH_CANARY: &str = "canary-of-the-path";

/// Runs a command as the build user.
const AS_BUILDER: [&str; 5] = ["setpriv", "--reuid=builder", "--regid=builder", "--clear-groups", "--"];

/// Takes the right to administer the network from a command.
const WITHOUT_NETWORK: [&str; 4] = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--"];

/// Tries the addresses and prints those that answer.
const CONNECT: &str = "import socket, sys
def connect(address, protocol):
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM, protocol) as one:
        one.settimeout(3)
        one.connect((address, 80))

for address in sys.argv[1:]:
    try:
        connect(address, 0)
        print('open', address)
    except OSError as error:
        print('closed', address, error.strerror)
    try:
        # Multipath TCP makes the connection in the kernel.
        connect(address, 262)
        print('multipath', address)
    except OSError:
        pass
";

struct Machine {
    sandbox: Sandbox,
    servers: &'static str,
    program: PathBuf,
}

impl Machine {
    /// `None`, with a SKIPPED line, where there can be none.
    fn new(test: &str, servers: &'static str) -> Option<Machine> {
        if !nix::unistd::geteuid().is_root() {
            skip(test, "only root can make network namespaces with servers, and become the build user");
            return None;
        }
        let tried =
            Command::new("unshare").args(["--net", "--mount", "--pid", "--fork", "ip", "link"]).output();
        if !tried.is_ok_and(|output| output.status.success()) {
            skip(test, "the kernel refuses namespaces, or there is no `ip` (iproute2)");
            return None;
        }
        let sandbox = Sandbox::new(test)?;
        // The build user cannot reach the directory of the sources.
        let program = sandbox.path().join("build-agent");
        let built = agent().get_program().to_owned();
        if std::fs::hard_link(&built, &program).is_err() {
            std::fs::copy(&built, &program).unwrap();
        }
        std::fs::create_dir(sandbox.path().join("root")).unwrap();
        Some(Machine { sandbox, servers, program })
    }

    /// Runs this shell script with the words `$1` and so on; `$AGENT` is the agent.
    fn run(&self, script: &str, words: &[&str]) -> Ran {
        let file = self.script("script", script);
        let mut command = Command::new(repository().join("tests/credential_isolation/machine"));
        command.arg(self.sandbox.path().join("root")).args(["sh", "-e", &file]).args(words);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
            .env("SERVERS", self.servers)
            .env("AGENT", &self.program)
            .env("CONNECT", CONNECT)
            .env("HOME", "/root");
        command.current_dir(self.sandbox.layer());
        self.sandbox.start(command).wait()
    }

    /// Writes a script. On a command line, everybody could read its text.
    fn script(&self, name: &str, text: &str) -> String {
        let path = self.sandbox.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// The doctor's finding, with these words before its command.
    fn finding(&self, before: &[&str]) -> Finding {
        let ran = self.run(r#"exec "$@" "$AGENT" doctor --release scarthgap --json"#, before);
        Finding::of(&ran)
    }

    /// A job with these words before its command.
    fn job(&self, before: &[&str], flags: &[&str]) -> (Ran, Value) {
        let script = r#"exec "$@""#;
        let (work, out) = (self.sandbox.work(), self.sandbox.out());
        let manifest = self.sandbox.manifest();
        let own =
            [&self.program, &PathBuf::from("run"), &manifest].map(|path| path.to_str().unwrap().to_owned());
        let places =
            ["--work-dir", work.to_str().unwrap(), "--out", out.to_str().unwrap()].map(str::to_owned);
        let flags = flags.iter().map(|&flag| flag.to_owned());
        let words: Vec<String> =
            before.iter().map(|&word| word.to_owned()).chain(own).chain(places).chain(flags).collect();
        let ran = self.run(script, &words.iter().map(String::as_str).collect::<Vec<_>>());
        ran.assert_code(&[0]);
        assert!(!ran.output().contains(PATH_CANARY), "{}", ran.output());
        assert!(leaks_of(&[PATH_CANARY.to_owned()], &out).is_empty());
        (ran, self.sandbox.result())
    }
}

#[derive(Debug)]
struct Finding {
    found: String,
    state: String,
    fix: String,
}

impl Finding {
    #[track_caller]
    fn of(ran: &Ran) -> Finding {
        assert!(
            !ran.output().contains(PATH_CANARY) && !ran.output().contains("hunter22"),
            "{}",
            ran.output()
        );
        let report: Value =
            serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.output()));
        let all: Vec<&Value> = report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["name"] == "credentials")
            .collect();
        let [finding] = all[..] else { panic!("not one finding: {all:?}") };
        let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        Finding { found: text("found"), state: text("state"), fix: text("fix") }
    }

    #[track_caller]
    fn assert_says(&self, answer: &str, found: &[&str], fix: &str) {
        assert!(self.found.starts_with(answer), "{self:?}");
        assert_eq!(self.state, if answer == "no: " { "ok" } else { "warning" }, "{self:?}");
        assert!(found.iter().all(|words| self.found.contains(words)), "{found:?} in {self:?}");
        assert!(self.fix.contains(fix), "{fix:?} in {self:?}");
    }
}

/// What nothing protects is reached; this is what the other tests rely on.
#[test]
fn without_isolation_the_addresses_answer_the_build_user() {
    let Some(machine) = Machine::new("without_isolation_the_addresses_answer_the_build_user", ALL) else {
        return;
    };
    let words: Vec<&str> = ALL.split(' ').collect();
    let ran = machine.run(
        r#"setpriv --reuid=builder --regid=builder --clear-groups python3 -c "$CONNECT" "$@"
           setpriv --reuid=builder --regid=builder --clear-groups cat /codebuild/output/tmp/env.sh"#,
        &words,
    );
    ran.assert_code(&[0]);
    let open: Vec<String> = words.iter().map(|address| format!("open {address}")).collect();
    let plain = ran.stdout.lines().filter(|line| !line.starts_with("multipath"));
    assert_eq!(plain.take(words.len()).collect::<Vec<_>>(), open, "{ran:?}");
    assert!(ran.stdout.contains(PATH_CANARY), "{ran:?}");
}

#[test]
fn files_and_addresses_are_closed_to_the_build_user_and_not_to_the_agent() {
    let test = "files_and_addresses_are_closed_to_the_build_user_and_not_to_the_agent";
    let Some(machine) = Machine::new(test, ALL) else { return };
    let words: Vec<&str> = ALL.split(' ').collect();
    // A second range of ids, for user namespaces, is closed as well. The first 8 words of `ip rule` name the rule.
    let ran = machine.run(
        r#"echo builder:200000:10 >/tmp/subuid.$$ && mount --bind /tmp/subuid.$$ /etc/subuid && rm /tmp/subuid.$$
           for run in 1 2; do CI=true "$AGENT" doctor --release scarthgap >/dev/null || :; done
           builder() { setpriv --reuid=builder --regid=builder --clear-groups "$@"; }
           echo builder; builder python3 -c "$CONNECT" "$@"
           echo namespace; builder unshare --user --map-root-user python3 -c "$CONNECT" "$@"
           echo no network; builder unshare --user --map-root-user --net python3 -c "$CONNECT" "$@"
           echo subordinate; setpriv --reuid=200009 --regid=200009 --clear-groups python3 -c "$CONNECT" "$@"
           echo agent; python3 -c "$CONNECT" "$@"
           echo files; builder cat /codebuild/output/tmp/env.sh || stat -c '%a %U' /codebuild/output/tmp
           cat /codebuild/output/tmp/env.sh >/dev/null
           echo rules; { ip -4 rule; ip -6 rule; } | grep -c prohibit"#,
        &words,
    );
    ran.assert_code(&[0]);
    let mut sections = ran.stdout.split_inclusive('\n').peekable();
    let mut section = |name: &str| -> Vec<String> {
        assert_eq!(sections.next().map(str::trim), Some(name), "{ran:?}");
        let rest = std::iter::from_fn(|| {
            let is_one =
                |line: &&str| ["open ", "closed ", "multipath "].iter().any(|start| line.starts_with(start));
            sections.next_if(is_one)
        });
        rest.map(|line| line.trim().to_owned()).collect()
    };
    let all = |start: &str, end: &str| -> Vec<String> {
        words.iter().map(|address| format!("{start} {address}{end}")).collect()
    };
    let prohibited = all("closed", " Permission denied");
    assert_eq!(section("builder"), prohibited);
    assert_eq!(section("namespace"), prohibited);
    let without_route = section("no network");
    assert!(
        without_route.iter().all(|line| line.starts_with("closed ")) && without_route.len() == 5,
        "{ran:?}"
    );
    assert_eq!(section("subordinate"), prohibited);
    assert!(!ran.stdout.split("agent\n").next().unwrap().contains("multipath"), "{ran:?}");
    let of_agent: Vec<String> =
        section("agent").into_iter().filter(|line| !line.starts_with("multipath")).collect();
    assert_eq!(of_agent, all("open", ""));
    let rest: Vec<&str> = sections.map(str::trim).collect();
    // One rule for each of five addresses and two ranges, also after the second time.
    assert_eq!(rest, ["files", "700 root", "rules", "10"], "{ran:?}");
}

#[test]
fn the_doctor_tells_whether_it_holds() {
    let Some(machine) = Machine::new("the_doctor_tells_whether_it_holds", ALL) else { return };
    machine.finding(&[]).assert_says("no: ", &["cannot reach the build's credentials"], "");
    let finding = machine.finding(&WITHOUT_NETWORK);
    finding.assert_says("yes: ", &[INSTANCE, "fd00:ec2::254", "role of the machine"], "CAP_NET_ADMIN");
    // The file with the path is closed all the same.
    assert!(!finding.found.contains(CONTAINER), "{finding:?}");
    let finding = machine.finding(&AS_BUILDER);
    let path =
        "169.254.170.2 gives the role of the build, and the path can be read: /codebuild/output/tmp/env.sh";
    finding.assert_says("yes: ", &[INSTANCE, path], "start the agent as root");
}

#[test]
fn an_address_without_its_path_gives_nothing() {
    let Some(machine) = Machine::new("an_address_without_its_path_gives_nothing", CONTAINER) else { return };
    let locked = "169.254.170.2 answers, but layer code cannot read the path";
    machine.finding(&WITHOUT_NETWORK).assert_says("no: ", &[locked], "");
    // Without the address, the path gives nothing.
    let nowhere = Machine { servers: "", ..machine };
    nowhere.finding(&AS_BUILDER).assert_says("no: ", &[], "");
}

#[test]
fn a_job_of_strangers_warns_if_credentials_can_be_reached() {
    let test = "a_job_of_strangers_warns_if_credentials_can_be_reached";
    let Some(machine) = Machine::new(test, INSTANCE) else { return };
    let notices = |result: &Value| -> Vec<(String, String)> {
        let text = |notice: &Value, key: &str| notice[key].as_str().unwrap_or_default().to_owned();
        let all = result["notices"].as_array().unwrap().iter();
        let about = all.filter(|notice| text(notice, "message").contains("the build's credentials"));
        about.map(|notice| (text(notice, "level"), text(notice, "message"))).collect()
    };
    for (before, flags, reachable, level, words) in [
        (&[][..], &[][..], "no", "info", "cannot reach"),
        (
            &WITHOUT_NETWORK,
            &[],
            "yes",
            "warning",
            "169.254.169.254 answers and gives the role of the machine",
        ),
        (&WITHOUT_NETWORK, &["--trusted"], "yes", "info", "169.254.169.254"),
    ] {
        let (ran, result) = machine.job(before, flags);
        assert_eq!(result["credentials"]["reachable"], reachable, "{before:?} {flags:?}: {}", ran.output());
        let told = notices(&result);
        assert!(told.len() == 1 && told[0].0 == level && told[0].1.contains(words), "{told:?}");
        assert_eq!(told[0].1.contains("not trusted"), level == "warning", "{told:?}");
        ran.assert_says(&[words]);
        // Told before anything of a layer ran.
        let at = |words: &str| ran.output().find(words);
        assert!(at("the build's credentials") < at("yocto-check-layer meta"), "{}", ran.output());
    }
}

/// `run-as`, `--user` and `--userns keep-id`: the shell above the agent is of the same user.
#[test]
fn a_secret_in_the_environment_of_the_same_user_is_found_and_one_in_the_file_is_not() {
    let test = "a_secret_in_the_environment_of_the_same_user_is_found_and_one_in_the_file_is_not";
    let Some(machine) = Machine::new(test, "") else { return };
    let as_builder = |text: &str| {
        let script = machine.script("script-of-builder", text);
        machine.run(r#"setpriv --reuid=builder --regid=builder --clear-groups sh -e "$1""#, &[&script])
    };
    let doctor = r#""$AGENT" doctor --release scarthgap --json || :"#;
    let ran = as_builder(&format!("export GITHUB_TOKEN=hunter22\nsh -c '{doctor}'\n:"));
    let found = ["the environment of sh (pid ", "GITHUB_TOKEN"];
    Finding::of(&ran).assert_says("yes: ", &found, "start the agent as root");

    // The agent itself shows nothing, whichever way it got its secrets.
    let ran = as_builder("export GITHUB_TOKEN=hunter22\nexec \"$AGENT\" doctor --release scarthgap --json");
    Finding::of(&ran).assert_says("no: ", &[], "");

    let secrets = r"GITHUB_TOKEN=%s\0AWS_ACCESS_KEY_ID=a\0AWS_SECRET_ACCESS_KEY=%s\0";
    let file = format!(
        "export BUILD_AGENT_SECRETS_FILE=$(mktemp /tmp/build-agent-secrets.XXXXXX)
         printf '{secrets}' hunter22 hunter22 >$BUILD_AGENT_SECRETS_FILE"
    );
    let ran = as_builder(&format!("{file}\n{doctor}"));
    Finding::of(&ran).assert_says("no: ", &[], "");
    let ran = as_builder(&format!("{file}\n{doctor} >/dev/null\ntest ! -e $BUILD_AGENT_SECRETS_FILE"));
    ran.assert_code(&[0]);
}

/// Files in the home of the build user, and files that other users can read.
#[test]
fn files_with_credentials_are_found_by_trying_to_read_them() {
    let test = "files_with_credentials_are_found_by_trying_to_read_them";
    let Some(machine) = Machine::new(test, "") else { return };
    let home = nix::unistd::User::from_name(BUILD_USER).unwrap().unwrap().dir;
    let owner = |path: &std::path::Path, uid: u32| chown(path, Some(uid), Some(uid)).unwrap();
    let place = machine.sandbox.path().join("home");
    std::fs::create_dir_all(place.join(".aws")).unwrap();
    let credentials = place.join(".aws/credentials");
    std::fs::write(&credentials, "[default]\naws_secret_access_key = hunter22\n").unwrap();
    let over = r#"mount --bind "$1" "$2"; exec "$AGENT" doctor --release scarthgap --json"#;
    let words = [place.to_str().unwrap(), home.to_str().unwrap()];
    let found = || Finding::of(&machine.run(over, &words));
    owner(&credentials, 0);
    std::fs::set_permissions(&credentials, std::fs::Permissions::from_mode(0o644)).unwrap();
    let path = home.join(".aws/credentials").display().to_string();
    found().assert_says("yes: ", &[&path, "AWS credentials"], "chmod go-rwx");
    std::fs::set_permissions(&credentials, std::fs::Permissions::from_mode(0o600)).unwrap();
    found().assert_says("no: ", &[], "");
}

/// The user may have another purpose there, such as being the person; and another job may run at the same time.
#[test]
fn on_a_persons_machine_the_rules_end_with_the_job_and_those_of_others_stay() {
    let test = "on_a_persons_machine_the_rules_end_with_the_job_and_those_of_others_stay";
    let Some(machine) = Machine::new(test, INSTANCE) else { return };
    let user = nix::unistd::User::from_name(BUILD_USER).unwrap().unwrap().uid.to_string();
    let words: Vec<String> = ["run", "--work-dir", "--out"].map(str::to_owned).into();
    let [work, out, manifest] = [machine.sandbox.work(), machine.sandbox.out(), machine.sandbox.manifest()]
        .map(|path| path.display().to_string());
    let job = [&words[0], &manifest, &words[1], &work, &words[2], &out].map(String::as_str);
    let script = r#"uid=$1; shift
        : >/tmp/subuid.$$ && mount --bind /tmp/subuid.$$ /etc/subuid && rm /tmp/subuid.$$
        count() { { ip -4 rule; ip -6 rule; } | grep -c prohibit || :; }
        "$AGENT" doctor --release scarthgap >/dev/null || :
        echo after the doctor: $(count)
        "$AGENT" "$@"
        echo after the job: $(count)
        ip -4 rule add priority 101 to 169.254.169.254 uidrange $uid-$uid prohibit
        "$AGENT" "$@" >/dev/null
        echo beside another job: $(count)
        ip -4 rule del priority 101
        CI=true "$AGENT" "$@" >/dev/null
        echo where a service runs it: $(count)"#;
    let ran = machine.run(script, &[&[user.as_str()][..], &job].concat());
    ran.assert_code(&[0]);
    ran.assert_says(&[
        "layer code cannot reach the build's credentials",
        "after the doctor: 0",
        "after the job: 0",
        "beside another job: 1",
        "where a service runs it: 5",
    ]);
    assert_eq!(machine.sandbox.result()["credentials"]["reachable"], "no");
}

/// A descriptor needs no permission any more, and every child would inherit it.
#[test]
fn descriptors_of_the_agents_parent_do_not_reach_layer_code() {
    let test = "descriptors_of_the_agents_parent_do_not_reach_layer_code";
    let Some(sandbox) = Sandbox::new(test) else { return };
    sandbox.behaviour("yocto-check-layer descriptors\nbitbake descriptors");
    let secret = sandbox.path().join("secret");
    std::fs::write(&secret, "hunter22").unwrap();
    let run = sandbox.run_command();
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec 7<"$1" 9>>"$1"; shift; exec "$@""#, "sh"]).arg(&secret);
    command.arg(run.get_program()).args(run.get_args()).current_dir(sandbox.layer());
    command.env_clear().envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = sandbox.start(command).wait();
    ran.assert_code(&[0]);
    let logs = sandbox.logs();
    let lines: Vec<&str> =
        logs.lines().filter_map(|line| line.split_once("descriptors ")).map(|(_, rest)| rest).collect();
    assert!(!lines.is_empty(), "{logs}");
    for line in lines {
        assert!(line.starts_with("0=/dev/null ") && !line.contains("secret"), "{line}");
    }
}

/// `actions/checkout` leaves its token there.
#[test]
fn a_token_in_the_configuration_of_git_is_found() {
    let test = "a_token_in_the_configuration_of_git_is_found";
    let Some(machine) = Machine::new(test, "") else { return };
    let layer = machine.sandbox.layer();
    let header = ["config", "http.https://github.com/.extraheader", "AUTHORIZATION: basic hunter22"];
    build_agent_tests::git(&layer, header);
    let (ran, result) = machine.job(&[], &[]);
    assert_eq!(result["credentials"]["reachable"], "yes", "{}", ran.output());
    let reason = format!("{} can be read (a token of git)", layer.join(".git/config").display());
    assert_eq!(result["credentials"]["reasons"], serde_json::json!([reason]));
    assert!(result["credentials"]["hint"].as_str().unwrap().contains("persist-credentials: false"));
}
