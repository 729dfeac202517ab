//! Commands that a step prints for GitHub's runner, such as `::error file=…::…`:
//! <https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands>.
//!
//! The runner obeys every line of a step that looks like a command, whoever wrote it. The text of layers and tools
//! reaches the console, so the agent stops the commands for as long as it prints anything else (`stop-commands`), with
//! a word that nobody else knows. Besides, every line is [sanitized](agent_types::sanitize).

use std::io::Write;
use std::sync::Arc;
use std::time::SystemTime;

use agent_types::job_id::JobId;

/// One command with its properties, escaped as GitHub's toolkit does it (`@actions/core`, `command.ts`).
pub fn command(name: &str, properties: &[(&str, String)], message: &str) -> String {
    let properties: Vec<String> = properties
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key}={}", escape_property(value)))
        .collect();
    let space = if properties.is_empty() { "" } else { " " };
    format!("::{name}{space}{}::{}", properties.join(","), escape_data(message))
}

fn escape_data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn escape_property(text: &str) -> String {
    escape_data(text).replace(':', "%3A").replace(',', "%2C")
}

/// Where the commands are printed. The runner reads both streams of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    /// If standard output is JSON.
    Stderr,
}

/// Prints commands that the runner obeys, while it obeys no other line of the job.
#[derive(Clone, Debug)]
pub struct WorkflowCommands {
    word: Arc<str>,
    stream: Stream,
}

/// `stop-commands`: while it lives, the runner obeys only what [`WorkflowCommands`] prints.
#[derive(Debug)]
pub struct StopCommands {
    pub commands: WorkflowCommands,
}

impl StopCommands {
    /// Stops the commands from here on.
    pub fn new(stream: Stream) -> StopCommands {
        // 128 random bits; nobody has seen them before the runner.
        let random = [JobId::new(SystemTime::now()), JobId::new(SystemTime::now())];
        let random = random.map(|id| id.as_str().rsplit('-').next().unwrap_or_default().to_owned());
        let commands = WorkflowCommands { word: format!("build-agent-{}", random.concat()).into(), stream };
        // Without a reader nothing obeys, either.
        let _ = commands.write(&format!("{}\n", commands.stop_line()));
        StopCommands { commands }
    }
}

/// Lets the runner obey the commands of others again.
impl Drop for StopCommands {
    fn drop(&mut self) {
        let _ = self.commands.write(&format!("{}\n", self.commands.resume_line()));
    }
}

impl WorkflowCommands {
    /// Prints commands that the runner obeys.
    ///
    /// # Errors
    /// If the stream cannot be written.
    pub fn print(&self, commands: &[String]) -> std::io::Result<()> {
        self.write(&self.around(commands))
    }

    /// In one piece, so that nothing of somebody else comes in between.
    fn around(&self, commands: &[String]) -> String {
        let lines = [&[self.resume_line()], commands, &[self.stop_line()]].concat();
        lines.join("\n") + "\n"
    }

    fn stop_line(&self) -> String {
        format!("::stop-commands::{}", self.word)
    }

    fn resume_line(&self) -> String {
        format!("::{}::", self.word)
    }

    fn write(&self, text: &str) -> std::io::Result<()> {
        fn write(mut to: impl Write, text: &str) -> std::io::Result<()> {
            to.write_all(text.as_bytes())?;
            to.flush()
        }
        match self.stream {
            Stream::Stdout => write(std::io::stdout().lock(), text),
            Stream::Stderr => write(std::io::stderr().lock(), text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_as_githubs_toolkit() {
        let file =
            |file: &str| vec![("file", file.to_owned()), ("line", "7".to_owned()), ("title", String::new())];
        let table = [
            (command("error", &[], "plain"), "::error::plain"),
            (command("error", &file("a b.bb"), "x"), "::error file=a b.bb,line=7::x"),
            (command("error", &file("a:b,c%\r\n"), "x"), "::error file=a%3Ab%2Cc%25%0D%0A,line=7::x"),
            (
                command("warning", &[], "50% of a:b, c\r\n::error::y"),
                "::warning::50%25 of a:b, c%0D%0A::error::y",
            ),
            (command("error", &[], "%0A"), "::error::%250A"),
        ];
        for (found, wanted) in table {
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn only_printed_commands_are_obeyed() {
        let commands = WorkflowCommands { word: "word".into(), stream: Stream::Stderr };
        let text = commands.around(&["::error::a".to_owned(), "::error::b".to_owned()]);
        assert_eq!(text, "::word::\n::error::a\n::error::b\n::stop-commands::word\n");
        let words: Vec<_> = (0..3).map(|_| StopCommands::new(Stream::Stderr).commands.word.clone()).collect();
        assert!(words.iter().all(|word| word.len() == "build-agent-".len() + 32), "{words:?}");
        assert!(words[0] != words[1] && words[1] != words[2], "{words:?}");
    }
}
