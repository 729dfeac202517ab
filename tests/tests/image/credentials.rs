//! Secrets and credentials in the image: the agent gets them, and layer code does not.

use std::process::{Command, Output};

use build_agent_tests::{Part, skip, skip_without};

use crate::{Mounted, STRANGER, chown, docker, image, missing, output_text};

/// Also if all processes of the container run as one user, and so can read each other's environment.
#[test]
fn secrets_reach_the_agent_and_no_layer_code() {
    need_image!("secrets_reach_the_agent_and_no_layer_code");
    let test = "secrets_reach_the_agent_and_no_layer_code";
    let Some(mounted) = Mounted::new(test, STRANGER) else { return };
    // Without a group: the group root may add the passwd entry.
    let user = mounted.owner.to_string();
    let file = ["--env", "BUILD_AGENT_SECRETS_FILE=/run/build-agent/secrets"];
    let variable = ["--env", "GITHUB_TOKEN=hunter22"];
    for (options, answer) in [
        (&file[..], "no: "),
        (&[&file[..], &["--user", &user]].concat(), "no: "),
        (&variable[..], "no: "),
        (&[&variable[..], &["--user", &user]].concat(), "yes: "),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let secrets = directory.path().join("secrets");
        std::fs::write(&secrets, "GITHUB_TOKEN=hunter22\0").unwrap();
        chown(directory.path(), mounted.owner);
        let mount = format!("{}:/run/build-agent", directory.path().display());
        let options = [&["--volume", &*mount][..], options].concat();
        let output = mounted.run(&options, &["doctor", "--release", "scarthgap", "--json"]);
        let report: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", output_text(&output)));
        let findings = report["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["name"] == "credentials").unwrap();
        assert!(finding["found"].as_str().unwrap().starts_with(answer), "{options:?}: {finding}");
        assert!(!output_text(&output).contains("hunter22"), "{}", output_text(&output));
        assert_eq!(secrets.exists(), !options.contains(&file[1]), "{options:?}");
    }
}

/// A container that runs, next to a server at this address. Both end with it.
struct Neighbour {
    name: String,
    server: std::process::Child,
}

impl Neighbour {
    fn new(test: &str, options: &[&str], address: &str) -> Neighbour {
        let name = format!("build-agent-test-{}-{test}", std::process::id());
        let start =
            ["run", "--detach", "--rm", "--network", "none", "--name", &name, "--entrypoint", "sleep"];
        let image = image();
        let started = docker([&start[..], options, &[&image, "600"]].concat());
        assert!(started.status.success(), "{}", output_text(&started));
        let pid = output_text(&docker(["inspect", "--format", "{{.State.Pid}}", &name]));
        // The address is in another network namespace: the kernel does not route one of the container itself.
        let script = r#"set -e
            unshare --net sleep 600 & neighbour=$!
            trap 'kill $neighbour' EXIT
            while [ "$(readlink /proc/$neighbour/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
            ip link add name credentials0 netns "$1" type veth peer name credentials1 netns "$neighbour"
            nsenter --target "$1" --net sh -c 'ip addr add 169.254.1.1/16 dev credentials0; ip link set credentials0 up'
            nsenter --target "$neighbour" --net sh -c "ip addr add $2/16 dev credentials1; ip link set credentials1 up"
            nsenter --target "$neighbour" --net python3 -c 'if True:
                import socket, sys
                listener = socket.create_server((sys.argv[1], 80))
                print("ready", flush=True)
                while True:
                    connection, _ = listener.accept()
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nthe-role")
                    connection.close()' "$2""#;
        let mut server = Command::new("bash");
        server.args(["-c", script, "bash", pid.trim(), address]).stdout(std::process::Stdio::piped());
        let mut server = server.spawn().unwrap();
        let mut line = String::new();
        let mut output = std::io::BufReader::new(server.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert_eq!(line, "ready\n");
        Neighbour { name, server }
    }

    fn exec(&self, words: &[&str]) -> Output {
        docker([&["exec", &self.name][..], words].concat())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        docker(["kill", &self.name]);
        // The server itself, and then the shell, whose trap ends the namespace.
        let pid = self.server.id().to_string();
        let _ = Command::new("pkill").args(["--parent", &pid]).status();
        let _ = self.server.wait();
    }
}

/// In CodeBuild without privileged mode this right is missing; with privileged mode, the agent closes the addresses.
#[test]
fn the_finding_about_credentials_is_right_with_and_without_the_network_right() {
    need_image!("the_finding_about_credentials_is_right_with_and_without_the_network_right");
    if !nix::unistd::geteuid().is_root() {
        skip("the_finding_about_credentials_is_right_with_and_without_the_network_right", "not run by root");
        return;
    }
    let connect = "import socket, sys; socket.create_connection((sys.argv[1], 80), 3)";
    for (number, (options, address, answer, reached)) in [
        (&[][..], "169.254.169.254", "yes: layer code can reach", true),
        (&["--cap-add", "NET_ADMIN"][..], "169.254.169.254", "no: layer code cannot reach", false),
        // Without its path, this server gives no credentials.
        (&[][..], "169.254.170.2", "no: layer code cannot reach", true),
        (&["--cap-add", "NET_ADMIN"][..], "169.254.170.2", "no: layer code cannot reach", false),
    ]
    .into_iter()
    .enumerate()
    {
        let neighbour = Neighbour::new(&format!("credentials-{number}"), options, address);
        let output = neighbour.exec(&["build-agent", "doctor", "--release", "scarthgap", "--json"]);
        let report: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", output_text(&output)));
        let findings = report["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["name"] == "credentials").unwrap();
        assert!(finding["found"].as_str().unwrap().starts_with(answer), "{options:?} {address}: {finding}");
        let as_root = neighbour.exec(&["python3", "-c", connect, address]);
        assert!(as_root.status.success(), "{}", output_text(&as_root));
        let builder = ["setpriv", "--reuid", "builder", "--regid", "builder", "--clear-groups"];
        let as_builder = neighbour.exec(&[&builder[..], &["python3", "-c", connect, address]].concat());
        assert_eq!(as_builder.status.success(), reached, "{options:?}: {}", output_text(&as_builder));
        // In a container the rules stay, also inside of user namespaces.
        let in_namespace = ["unshare", "--user", "--map-root-user", "python3", "-c", connect, address];
        let in_namespace = neighbour.exec(&[&builder[..], &in_namespace].concat());
        assert!(reached || !in_namespace.status.success(), "{}", output_text(&in_namespace));
    }
}
