//! Whether layer code can reach the build's credentials.

use serde::{Deserialize, Serialize};

/// The result of the test as the user that runs layer code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reachable {
    Yes,
    No,
    /// The test could not run.
    Unknown,
}

/// The result with its reasons. Contains paths and names of variables, never a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialAccess {
    pub reachable: Reachable,
    /// If reachable: how. If not: what protects a credential whose server answers. If unknown: why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// How to fix it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl CredentialAccess {
    /// One sentence for the console and reports.
    pub fn message(&self) -> String {
        let reasons = self.reasons.join("; ");
        match (self.reachable, reasons.as_str()) {
            (Reachable::No, "") => "layer code cannot reach the build's credentials".to_owned(),
            (Reachable::No, _) => format!("layer code cannot reach the build's credentials ({reasons})"),
            (Reachable::Yes, _) => format!("layer code can reach the build's credentials: {reasons}"),
            (Reachable::Unknown, _) => {
                format!("unknown whether layer code can reach the build's credentials: {reasons}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_yes_or_no_and_why() {
        let message = |reachable, reasons: &[&str]| {
            let reasons = reasons.iter().map(|&reason| reason.to_owned()).collect();
            CredentialAccess { reachable, reasons, hint: None }.message()
        };
        let no = "layer code cannot reach the build's credentials";
        assert_eq!(message(Reachable::No, &[]), no);
        assert_eq!(message(Reachable::No, &["a", "b"]), format!("{no} (a; b)"));
        let yes = message(Reachable::Yes, &["a", "b"]);
        assert_eq!(yes, "layer code can reach the build's credentials: a; b");
        assert!(message(Reachable::Unknown, &["no answer"]).ends_with("credentials: no answer"));
    }
}
