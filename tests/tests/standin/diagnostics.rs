//! `agent.log` and the output of `--log-level`: what they contain, and what they never contain.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use build_agent_tests::{Sandbox, leaks_of};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Secrets that the agent knows from the start.
const KNOWN: &str = "swordfish-of-the-environment";
const PASSWORD: &str = "swordfish-in-an-address";
/// Secrets that only AWS's replies contain.
const AWS: [&str; 4] =
    ["swordfish-secret-key", "swordfish-session-token", "swordfish-of-the-manager", "swordfish-of-a-body"];

/// The lines of the job's `agent.log`.
#[track_caller]
fn log(sandbox: &Sandbox) -> Vec<Value> {
    let text = std::fs::read_to_string(sandbox.out().join("agent.log")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn is_debug(line: &Value) -> bool {
    line["level"] == "debug" || line["level"] == "trace"
}

/// The end of the first span of this kind with this value in a field.
#[track_caller]
fn end_of<'a>(log: &'a [Value], span: &str, field: &str, value: &str) -> &'a Value {
    let fits = |line: &&Value| {
        let is_end = line["span"] == span && line["message"] == "end";
        is_end && line["fields"][field].as_str().is_some_and(|text| text.contains(value))
    };
    log.iter().find(fits).unwrap_or_else(|| panic!("no {span} with {field} {value} in {log:#?}"))
}

fn with(sandbox: &Sandbox, words: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = sandbox.run_command();
    command.args(words).envs(variables.iter().copied());
    command
}

/// A server that is S3, Secrets Manager and the container's credentials at once, and a git server without
/// repositories.
fn aws() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || answer(stream.unwrap()));
        }
    });
    port
}

fn answer(stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    let mut head = Vec::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head.push(line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let [secret, token, manager, body] = AWS;
    let (status, content) = if head[0].starts_with("GET /credentials") {
        let json = serde_json::json!({
            "AccessKeyId": "ASIATESTTESTTEST", "SecretAccessKey": secret, "Token": token,
            "Expiration": "2100-01-01T00:00:00Z",
        });
        ("200 OK", json.to_string())
    } else if head[0].starts_with("POST / ") {
        ("200 OK", serde_json::json!({ "Name": "x", "SecretString": manager }).to_string())
    } else if head[0].starts_with("PUT ") {
        ("200 OK", String::new())
    } else {
        ("404 Not Found", format!("<Error><Code>NoSuchKey</Code><Password>{body}</Password></Error>"))
    };
    let is_head = head[0].starts_with("HEAD ");
    let content = if is_head { String::new() } else { content };
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nETag: \"x\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{content}",
        content.len()
    );
}

/// A job that talks to AWS, and whose tools print secrets.
fn job_with_aws(sandbox: &Sandbox, port: u16) {
    let rules = "\n[[artifacts.rules]]\ninclude = \"conf/**\"\n\n[limits]";
    sandbox.change_manifest("\n[limits]", rules);
    sandbox.change_manifest(&sandbox.artifacts().display().to_string(), "s3://bucket/prefix");
    let text = std::fs::read_to_string(sandbox.manifest()).unwrap();
    let github = "\n[github]\nrepository = \"example/meta-tested\"\ntoken_secret = \"build-agent/token\"\n";
    sandbox.write_manifest(&format!("{text}{github}"));
    sandbox.behaviour(&format!("yocto-check-layer say {KNOWN}\nbitbake-layers say port {port}"));
}

#[test]
fn everything_is_recorded_and_no_secret_at_any_level() {
    let test = "everything_is_recorded_and_no_secret_at_any_level";
    for filter in ["trace", "trace,h2=trace,hyper=trace,hyper_util=trace,aws_config=trace,aws_sigv4=trace"] {
        let Some(sandbox) = Sandbox::new(test) else { return };
        let port = aws();
        job_with_aws(&sandbox, port);
        let endpoint = format!("http://127.0.0.1:{port}");
        let credentials = format!("{endpoint}/credentials");
        let proxy = format!("http://me:{PASSWORD}@127.0.0.1:1");
        let variables = [
            ("DEPLOY_TOKEN", KNOWN),
            ("https_proxy", &*proxy),
            ("no_proxy", "127.0.0.1"),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_ENDPOINT_URL", &*endpoint),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*credentials),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "swordfish-authorization"),
        ];
        let ran = sandbox.start(with(&sandbox, &["--trusted", "--log-level", filter], &variables)).wait();
        ran.assert_code(&[0]);
        let secrets: Vec<String> =
            [KNOWN, PASSWORD, "swordfish"].into_iter().chain(AWS).map(str::to_owned).collect();
        let leaks = leaks_of(&secrets, &sandbox.out());
        assert!(leaks.is_empty(), "{leaks:?}");
        for secret in secrets.iter().map(String::as_str).chain(["Signature="]) {
            let at = ran.stderr.find(secret).map(|at| &ran.stderr[at.saturating_sub(500)..at + secret.len()]);
            assert_eq!(at, None, "{secret}");
        }

        let log = log(&sandbox);
        let stage = end_of(&log, "stage", "name", "checkout");
        assert_eq!(stage["fields"]["outcome"], "passed", "{stage}");
        assert!(stage["fields"]["seconds"].is_number(), "{stage}");
        end_of(&log, "step", "name", "repo poky");
        let git = end_of(&log, "git", "source", "poky");
        assert!(git["spans"].as_array().unwrap().iter().any(|span| span["name"] == "repo poky"), "{git}");
        let command = end_of(&log, "command", "argv", "yocto-check-layer");
        let fields = &command["fields"];
        assert_eq!(fields["exit"], "exit status 0", "{command}");
        assert!(fields["pid"].as_u64().is_some_and(|pid| pid > 1) && fields["cwd"].is_string(), "{command}");
        let put = end_of(&log, "s3", "call", "put");
        assert_eq!(put["fields"]["bucket"], "bucket", "{put}");
        end_of(&log, "secrets-manager", "id", "build-agent/token");
        let targets: Vec<&str> = log.iter().filter_map(|line| line["target"].as_str()).collect();
        assert!(targets.iter().any(|target| target.starts_with("aws_")), "the SDK's own events");
        let is_http = |target: &&str| ["h2", "hyper"].contains(&target.split("::").next().unwrap());
        assert!(!targets.iter().any(is_http) || filter.contains("hyper"), "{filter}");
        let trace =
            |line: &&Value| line["level"] == "trace" && !line["target"].as_str().unwrap().contains("agent");
        assert_eq!(log.iter().find(trace), None, "what libraries record at `trace`");
        assert!(ran.stderr.contains(" agent_git::program"), "{}", ran.stderr);
    }
}

#[test]
fn passwords_of_the_command_line_and_of_addresses_are_hidden() {
    let Some(sandbox) = Sandbox::new("passwords_of_the_command_line_and_of_addresses_are_hidden") else {
        return;
    };
    let private = format!("repos.poky.url=http://me:{PASSWORD}@127.0.0.1:{}/x", aws());
    let words = ["--log-level", "trace", "--set", &private];
    let ran = sandbox.start(with(&sandbox, &words, &[])).wait();
    ran.assert_code(&[2, 4]);
    assert!(!ran.output().contains(PASSWORD), "{}", ran.output());
    assert!(leaks_of(&[PASSWORD.to_owned()], &sandbox.out()).is_empty());
    let log = log(&sandbox);
    let argv = log[0]["fields"]["argv"].as_str().unwrap();
    assert!(argv.contains("http://me:[redacted]@127.0.0.1"), "{argv}");
    assert!(
        log.iter().any(|line| line["level"] == "error" && line["message"].as_str().unwrap().contains("poky"))
    );
}

#[test]
fn by_default_the_log_has_info_and_the_console_nothing() {
    let Some(sandbox) = Sandbox::new("by_default_the_log_has_info_and_the_console_nothing") else { return };
    let ran = sandbox.run();
    ran.assert_code(&[0]);
    assert_eq!(ran.stderr, "");
    let log = log(&sandbox);
    assert!(!log.iter().any(is_debug), "{log:#?}");
    assert_eq!(log[0]["message"], "started");
    let last = log.last().unwrap();
    assert_eq!((&last["message"], &last["fields"]["exit_code"]), (&"ended".into(), &0.into()));
    end_of(&log, "command", "argv", "bitbake-layers");
    // The next job starts a new log.
    let first = log[0]["time"].clone();
    sandbox.run().assert_code(&[0]);
    assert_ne!(self::log(&sandbox)[0]["time"], first);
}

#[test]
fn the_flag_takes_precedence_over_the_variable() {
    for (flag, variable, expected) in [
        (None, "debug", true),
        (Some("off"), "debug", false),
        (Some("agent_git=debug"), "off", true),
        (Some("debug"), "not a filter at all", true),
        (None, "", false),
    ] {
        let Some(sandbox) = Sandbox::new("the_flag_takes_precedence_over_the_variable") else { return };
        let words: Vec<&str> = flag.iter().flat_map(|flag| ["--log-level", flag]).collect();
        let ran = sandbox.start(with(&sandbox, &words, &[("BUILD_AGENT_LOG", variable)])).wait();
        ran.assert_code(&[0]);
        let is_printed = ran.stderr.contains(" agent_git::program");
        assert_eq!(is_printed, expected, "{flag:?} {variable:?}: {}", ran.stderr);
        assert!(is_printed || ran.stderr.is_empty(), "{}", ran.stderr);
        end_of(&log(&sandbox), "git", "source", "poky");
    }
}

#[test]
fn a_wrong_filter_is_status_2_with_the_reason() {
    let Some(sandbox) = Sandbox::new("a_wrong_filter_is_status_2_with_the_reason") else { return };
    for (words, variables, expected) in [
        (vec!["--log-level", "debgu"], vec![], ["--log-level", "did you mean `debug`"]),
        (vec![], vec![("BUILD_AGENT_LOG", "agent_git=lots")], ["BUILD_AGENT_LOG", "`lots`"]),
        (vec![], vec![("BUILD_AGENT_LOG", "\u{1b}[2Jdebug=")], ["BUILD_AGENT_LOG", "is not a level"]),
    ] {
        sandbox.run().assert_code(&[0]);
        let ran = sandbox.start(with(&sandbox, &words, &variables)).wait();
        ran.assert_code(&[2]);
        ran.assert_says(&expected);
        assert!(!ran.output().contains('\u{1b}'), "{:?}", ran.output());
        assert_eq!(sandbox.result()["outcome"], "not-run", "the verdict of the job before is gone");
    }
}

#[test]
fn records_are_written_when_a_signal_stops_the_job() {
    let Some(sandbox) = Sandbox::new("records_are_written_when_a_signal_stops_the_job") else {
        return;
    };
    sandbox.behaviour("yocto-check-layer hang");
    let mut running = sandbox.start(sandbox.run_command());
    sandbox.wait_for_log(&mut running, "hanging");
    running.signal(Signal::SIGTERM);
    running.wait().assert_code(&[130]);
    let log = log(&sandbox);
    let command = end_of(&log, "command", "argv", "yocto-check-layer");
    assert!(command["fields"]["exit"].as_str().unwrap().contains("cancelled"), "{command}");
    let last = log.last().unwrap();
    assert_eq!((&last["message"], &last["fields"]["exit_code"]), (&"ended".into(), &130.into()));
}

#[test]
fn links_and_pipes_at_the_path_of_the_log_are_replaced() {
    let Some(sandbox) = Sandbox::new("links_and_pipes_at_the_path_of_the_log_are_replaced") else { return };
    let victim = sandbox.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    let path = sandbox.out().join("agent.log");
    std::fs::create_dir(sandbox.out()).unwrap();
    let link = |path: &Path| symlink(&victim, path).unwrap();
    let pipe = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for make in [&link as &dyn Fn(&Path), &pipe] {
        let _ = std::fs::remove_file(&path);
        make(&path);
        sandbox.run().assert_code(&[0]);
        assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(log(&sandbox)[0]["message"], "started");
    }
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
}

/// On a terminal, each line starts where the progress was cleared, or at the start of a line.
#[test]
fn lines_on_a_terminal_do_not_mix_with_the_progress() {
    let Some(sandbox) = Sandbox::new("lines_on_a_terminal_do_not_mix_with_the_progress") else { return };
    let agent = with(&sandbox, &["--log-level", "info"], &[]);
    let script = "import os, pty, sys\n\
        status = pty.spawn(sys.argv[1:])\n\
        sys.exit(os.waitstatus_to_exitcode(status))\n";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(agent.get_program()).args(agent.get_args());
    command.current_dir(sandbox.layer()).env("TERM", "xterm");
    let ran = sandbox.start(command).wait();
    ran.assert_code(&[0]);
    assert!(ran.stdout.contains("\u{1b}[2K"), "there is a progress line: {:?}", ran.stdout);
    let lines: Vec<usize> = ran.stdout.match_indices("Z info  agent_").map(|(at, _)| at - 23).collect();
    assert!(lines.len() > 10, "{:?}", ran.stdout);
    for at in lines {
        // With two lines of progress, the cursor goes back up after the second one is cleared.
        let before = ran.stdout[..at].trim_end_matches("\u{1b}[1A");
        let is_clear = before.is_empty() || before.ends_with('\n') || before.ends_with("\u{1b}[2K");
        assert!(is_clear, "{:?}", &before[before.len().saturating_sub(100)..]);
    }
}

#[test]
fn commands_without_reports_print_only() {
    let Some(sandbox) = Sandbox::new("commands_without_reports_print_only") else { return };
    let destination = sandbox.path().join("destination");
    let tree = sandbox.layer().join("conf").display().to_string();
    let words = ["publish", &tree, &destination.display().to_string(), "--log-level", "info"];
    let ran = sandbox.call(words);
    ran.assert_code(&[0]);
    assert!(ran.stderr.contains(" info  build_agent::cli: started"), "{}", ran.stderr);
    assert!(ran.stderr.contains(" ended exit_code=0"), "{}", ran.stderr);
    for place in [sandbox.layer(), sandbox.layer().join("build-agent-out"), destination] {
        assert!(!place.join("agent.log").exists(), "{}", place.display());
    }
}
