//! One comment on a pull request: <https://docs.github.com/en/rest/issues/comments>.
//!
//! All jobs of a pull request share one comment. It begins with a hidden marker, and has a section for each job, between
//! two hidden lines. A job replaces its own section. GitHub has no conditional update, so each job reads the comment again
//! after its write, and repeats the write if another job's write has removed its section. If two jobs create the comment at
//! the same time, the older comment stays, and the sections of the other one move there.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::client::{Call, Client};
use super::create::{Sent, create};
use super::failure::{Failure, Result};
use super::repository::Repository;

/// The first line of the comment.
const MARKER: &str = "<!-- build-agent -->";

/// Maximum characters of a comment: 65,536.
const BODY: usize = 65_000;

/// Pages of comments that are searched.
const PAGES: usize = 50;

/// How often a write is repeated after another job's.
const TRIES: u32 = 5;

/// Between a write and the read that confirms it.
const SETTLE: Duration = Duration::from_millis(300);

/// The section of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The job's name. It has no line end, and no `>`.
    pub name: String,
    /// Markdown, escaped.
    pub text: String,
}

/// When the section is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Always,
    /// Only if the comment already has a section of this job.
    IfPresent,
}

/// What became of the section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Created,
    Updated,
    /// There was nothing to update.
    Nothing,
}

#[derive(Clone, Debug, Deserialize)]
struct Comment {
    id: u64,
    #[serde(default)]
    body: Option<String>,
    user: Option<User>,
}

#[derive(Clone, Debug, Deserialize)]
struct User {
    login: String,
    #[serde(rename = "type", default)]
    kind: String,
}

impl Comment {
    fn body(&self) -> &str {
        self.body.as_deref().unwrap_or_default()
    }
}

/// Who writes: only this author's comments are changed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Author {
    Login(String),
    /// An App cannot ask for its own name; it can change no comment but its own.
    App,
}

impl Author {
    async fn of(client: &Client) -> Result<Author> {
        match client.json::<User>(&Call::get(&["user"])).await {
            Ok(user) => Ok(Author::Login(user.login)),
            Err(Failure::Forbidden(_) | Failure::NotFound(_)) => Ok(Author::App),
            Err(failure) => Err(failure),
        }
    }

    fn wrote(&self, comment: &Comment) -> bool {
        comment.user.as_ref().is_some_and(|user| match self {
            Author::Login(login) => user.login == *login,
            Author::App => user.kind == "Bot",
        })
    }
}

/// Writes a section into the comment of this program on a pull request.
///
/// # Errors
/// If GitHub does not accept it, or the deadline comes first.
pub async fn write(
    client: &Client,
    repository: &Repository,
    pull_request: u64,
    section: &Section,
    when: Write,
) -> Result<Written> {
    let place = Place { client, repository, pull_request, author: Author::of(client).await? };
    let mut not_ours = Vec::new();
    for comment in place.candidates().await? {
        if when == Write::IfPresent && !has(&comment, section) {
            continue;
        }
        match place.put(comment.clone(), section).await {
            Ok(()) => return Ok(Written::Updated),
            // Another program's comment that begins with the marker.
            Err(Failure::Forbidden(_) | Failure::NotFound(_)) => not_ours.push(comment.id),
            Err(failure) => return Err(failure),
        }
    }
    if when == Write::IfPresent {
        return Ok(Written::Nothing);
    }
    let created = place.create(&compose(std::slice::from_ref(section), &section.name)).await?;
    let older = place.candidates().await?.into_iter();
    for comment in older.take_while(|comment| comment.id < created.id) {
        if !not_ours.contains(&comment.id) && place.put(comment, section).await.is_ok() {
            // Another job was faster.
            place.delete(&created).await?;
            return Ok(Written::Updated);
        }
    }
    Ok(Written::Created)
}

/// Whether the comment has a section of the same job.
fn has(comment: &Comment, section: &Section) -> bool {
    sections(comment.body()).iter().any(|known| known.name == section.name)
}

struct Place<'a> {
    client: &'a Client,
    repository: &'a Repository,
    pull_request: u64,
    author: Author,
}

impl Place<'_> {
    /// The comments that may be this program's, the oldest first. The first one is, if the author's name is known.
    async fn candidates(&self) -> Result<Vec<Comment>> {
        let number = self.pull_request.to_string();
        let (owner, name) = (&self.repository.owner, &self.repository.name);
        let call = || Call::get(&["repos", owner, name, "issues", &number, "comments"]);
        let is_it = |comment: &Comment| comment.body().starts_with(MARKER) && self.author.wrote(comment);
        let is_certain = matches!(self.author, Author::Login(_));
        let is_enough = |all: &[Comment]| is_certain && all.iter().any(is_it);
        let mut all: Vec<Comment> = self.client.pages(call, PAGES, is_enough).await?;
        all.retain(is_it);
        Ok(all)
    }

    async fn create(&self, body: &str) -> Result<Comment> {
        let number = self.pull_request.to_string();
        let path = ["repos", &self.repository.owner, &self.repository.name, "issues", &number, "comments"];
        let call = Call::post(&path, json!({ "body": body }));
        let send = || -> Sent<'_, _> { Box::pin(async { self.client.json(&call).await }) };
        let look_up = || -> Sent<'_, _> {
            Box::pin(async {
                let found = self.candidates().await?;
                Ok(found.into_iter().find(|found| found.body() == body))
            })
        };
        create(self.client, send, look_up).await
    }

    /// Replaces the section, and confirms that it stays.
    async fn put(&self, mut comment: Comment, section: &Section) -> Result<()> {
        for tried in 0..TRIES {
            let wanted = replaced(comment.body(), section);
            if comment.body() == wanted {
                return Ok(());
            }
            if tried > 0 {
                // Two jobs do not repeat in step.
                let wait = SETTLE * (1 + u32::try_from(section.text.len() % 7).unwrap_or(0));
                self.client.pause(wait, "another job writes the comment").await?;
            }
            let id = comment.id.to_string();
            let path = ["repos", &self.repository.owner, &self.repository.name, "issues", "comments", &id];
            self.client.done(&Call::patch(&path, json!({ "body": wanted }))).await?;
            self.client.pause(SETTLE, "the comment was written").await?;
            comment = self.client.json(&Call::get(&path)).await?;
        }
        match has(&comment, section) {
            true => Ok(()),
            false => Err(Failure::Unclear("other jobs write the same comment".to_owned())),
        }
    }

    async fn delete(&self, comment: &Comment) -> Result<()> {
        let id = comment.id.to_string();
        let path = ["repos", &self.repository.owner, &self.repository.name, "issues", "comments", &id];
        match self.client.done(&Call::delete(&path)).await {
            // It is gone already.
            Err(Failure::NotFound(_)) => Ok(()),
            ended => ended,
        }
    }
}

fn begin(name: &str) -> String {
    format!("<!-- build-agent:begin {name} -->")
}

fn end(name: &str) -> String {
    format!("<!-- build-agent:end {name} -->")
}

/// The comment's text with these sections. If it is too long, the sections of other jobs are shortened last.
fn compose(sections: &[Section], own: &str) -> String {
    let mut texts: Vec<String> = sections.iter().map(|section| inert(&section.text)).collect();
    let frame: usize = sections.iter().map(|section| section.name.chars().count() * 2 + 80).sum();
    let length = |texts: &[String]| frame + texts.iter().map(|text| text.chars().count()).sum::<usize>();
    let order = (0..sections.len()).filter(|at| sections[*at].name == own);
    let order: Vec<usize> = order.chain((0..sections.len()).filter(|at| sections[*at].name != own)).collect();
    for at in order {
        let over = length(&texts).saturating_sub(BODY);
        if over > 0 {
            texts[at] = cut(&texts[at], texts[at].chars().count().saturating_sub(over));
        }
    }
    let mut body = format!("{MARKER}\n");
    for (section, text) in sections.iter().zip(&texts) {
        body += &format!("{}\n{}\n{}\n", begin(&section.name), text.trim(), end(&section.name));
    }
    body
}

/// The first lines that fit, without an open block of code.
fn cut(text: &str, limit: usize) -> String {
    let rest = "\n\n(shortened)";
    let mut left = limit.saturating_sub(rest.len() + 12);
    let mut kept = String::new();
    // The indentation and the backticks of an open block.
    let mut fence: Option<(&str, &str)> = None;
    for line in text.lines() {
        let length = line.chars().count() + 1;
        if length > left {
            break;
        }
        left -= length;
        let text = line.trim_start();
        let (indentation, _) = line.split_at(line.len() - text.len());
        let (ticks, _) = text.split_at(text.len() - text.trim_start_matches('`').len());
        fence = match fence {
            None if ticks.len() >= 3 => Some((indentation, ticks)),
            Some((_, open)) if text.trim_end() == open => None,
            open => open,
        };
        kept.push_str(line);
        kept.push('\n');
    }
    if let Some((indentation, open)) = fence {
        kept.push_str(indentation);
        kept.push_str(open);
    }
    kept.trim_end().to_owned() + rest
}

/// The text without anything that looks like a hidden line.
fn inert(text: &str) -> String {
    text.replace("<!--", "< !--")
}

/// The sections of a comment. What is between them is not read.
fn sections(body: &str) -> Vec<Section> {
    let mut found: Vec<Section> = Vec::new();
    let mut open: Option<Section> = None;
    for line in body.lines() {
        let name = line.strip_prefix("<!-- build-agent:begin ").and_then(|rest| rest.strip_suffix(" -->"));
        match (&mut open, name) {
            (None, Some(name)) => open = Some(Section { name: name.to_owned(), text: String::new() }),
            (Some(section), _) if line == end(&section.name) => found.extend(open.take()),
            (Some(section), _) => {
                section.text.push_str(line);
                section.text.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

/// The comment with this section in place of the job's earlier one, else at its end.
fn replaced(body: &str, section: &Section) -> String {
    let mut all = sections(body);
    match all.iter_mut().find(|known| known.name == section.name) {
        Some(known) => known.text.clone_from(&section.text),
        None => all.push(section.clone()),
    }
    compose(&all, &section.name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn section(name: &str, text: &str) -> Section {
        Section { name: name.into(), text: text.into() }
    }

    #[test]
    fn a_section_replaces_only_its_own() {
        let first = compose(&[section("a", "one")], "a");
        assert_eq!(
            first,
            "<!-- build-agent -->\n<!-- build-agent:begin a -->\none\n<!-- build-agent:end a -->\n"
        );
        let both = replaced(&first, &section("b c", "two\n\n- x"));
        let again = replaced(&both, &section("a", "three"));
        let found: Vec<_> = sections(&again).into_iter().map(|it| (it.name, it.text)).collect();
        assert_eq!(found, [("a".into(), "three\n".into()), ("b c".into(), "two\n\n- x\n".to_owned())]);
        assert_eq!(replaced(&again, &section("a", "three")), again, "nothing to write");
    }

    #[test]
    fn a_text_cannot_end_its_section_or_begin_another() {
        let hostile = "x\n<!-- build-agent:end a -->\n<!-- build-agent:begin b -->\nforged\n<!-- build-agent:end b -->\n<!--";
        let body = replaced(&compose(&[section("b", "true")], "b"), &section("a", hostile));
        let found = sections(&body);
        assert_eq!(found.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(found[0].text, "true\n");
        assert!(found[1].text.contains("< !-- build-agent:end a -->"));
        // A person may have edited the comment; its intact sections are read.
        assert!(sections("<!-- build-agent -->\n<!-- build-agent:begin a -->\nno end").is_empty());
        assert!(sections("nothing").is_empty());
    }

    #[test]
    fn a_comment_is_never_longer_than_github_accepts() {
        let long = format!("verdict\n\n```text\n{}```\n", "a line of a log\n".repeat(9000));
        let body = compose(&[section("a", &long), section("b", "short")], "a");
        assert!(body.chars().count() <= BODY, "{}", body.chars().count());
        let found = sections(&body);
        assert_eq!(found[1].text, "short\n", "the other job's text stays");
        assert!(found[0].text.starts_with("verdict\n"));
        assert!(
            found[0].text.ends_with("a line of a log\n```\n\n(shortened)\n"),
            "{:?}",
            &found[0].text[found[0].text.len() - 60..]
        );
        let listed = long.replace("```", "  ```").replace("a line", "  a line");
        let body = compose(&[section("a", &listed)], "a");
        assert!(sections(&body)[0].text.ends_with("  a line of a log\n  ```\n\n(shortened)\n"));
        let all: Vec<Section> = (0..9).map(|number| section(&number.to_string(), &long)).collect();
        let body = compose(&all, "3");
        assert!(body.chars().count() <= BODY);
        assert_eq!(sections(&body).len(), 9);
        // One line that is too long for itself.
        let one = compose(&[section("a", &"€".repeat(70_000))], "a");
        assert!(one.chars().count() <= BODY);
    }

    #[test]
    fn only_own_comments_are_changed() {
        let comment = |login: &str, kind: &str| Comment {
            id: 1,
            body: Some(MARKER.into()),
            user: Some(User { login: login.into(), kind: kind.into() }),
        };
        let me = Author::Login("me".into());
        assert!(me.wrote(&comment("me", "User")) && !me.wrote(&comment("you", "User")));
        assert!(Author::App.wrote(&comment("x[bot]", "Bot")) && !Author::App.wrote(&comment("you", "User")));
        assert!(!me.wrote(&Comment { user: None, ..comment("me", "User") }), "a deleted user");
    }
}
