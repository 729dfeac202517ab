//! Fetches AWS IoT Device Tester by its documented, signed API.
//!
//! <https://docs.aws.amazon.com/greengrass/v2/developerguide/idt-programmatic-download.html>: the parameters must come in
//! this order, and the address of the zip is valid for an hour.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_artifacts::aws::signed::{Caller, SignedRequest, configured_endpoint, send};
use agent_fs::access::Credentials;
use agent_process::{Runner, User, blocking};
use agent_types::error::{Class, Error, Result};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use super::installation::PROGRAM;
use crate::lab::DeviceTester;

/// The documented address, unless the AWS configuration names another endpoint.
const API: &str = "https://download.devicetester.iotdevicesecosystem.amazonaws.com";

/// Limits of the zip, packed and unpacked.
const MOST_PACKED: u64 = 2 << 30;
const MOST_BYTES: u64 = 8 << 30;
const MOST_ENTRIES: usize = 200_000;

/// A server that sends nothing for this long is gone.
const SILENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ApiAnswer {
    success: serde_json::Value,
    #[serde(default)]
    message: Option<String>,
    latest_bk: Option<Latest>,
}

#[derive(Debug, Deserialize)]
struct Latest {
    #[serde(rename = "Version")]
    version: String,
    #[serde(rename = "TestSuiteVersion", default)]
    suite: String,
    #[serde(rename = "DownloadURL")]
    url: String,
}

/// The word of the API for a suite.
fn suite_type(suite: &str) -> Option<&'static str> {
    match suite.split('_').next()? {
        "GGV2Q" => Some("GGV2"),
        "FRQ" => Some("FR"),
        _ => None,
    }
}

/// Downloads the newest version into `directory`, which is not there yet. `user`: whose it becomes.
///
/// # Errors
/// Usage, if AWS does not offer the suite; upstream, if it does not answer.
pub async fn install(
    tester: &DeviceTester,
    directory: &Path,
    user: Option<&User>,
    runner: &Runner,
) -> Result<()> {
    let kind = suite_type(&tester.suite).ok_or_else(|| {
        Error::usage(format!("AWS offers no download of the suite {}", tester.suite))
            .hint("unpack Device Tester with the suite, and name it in lab.toml: `directory`")
    })?;
    let endpoint = configured_endpoint("iot device tester").await.unwrap_or_else(|| API.to_owned());
    let url = format!("{}/latestidt?HostOs=linux&TestSuiteType={kind}", endpoint.trim_end_matches('/'));
    let request = SignedRequest {
        service: "iot-device-tester",
        region: Some(&tester.region),
        caller: tester.profile.as_deref().map_or(Caller::Agent, Caller::Profile),
        method: reqwest::Method::GET,
        url: &url,
        headers: &[],
        body: "",
    };
    let body =
        send(&request).await?.success("the address of Device Tester", "iot-device-tester:LatestIdt")?;
    let latest = latest(&body)?;
    runner.events.info(format!("downloading Device Tester {} with {}", latest.version, latest.suite)).await;
    let above = directory.parent().unwrap_or(Path::new("/"));
    fs_err::create_dir_all(above)?;
    let (packed, part) = (directory.with_extension("zip"), directory.with_extension("part"));
    agent_fs::remove::remove_tree(&part, above)?;
    let fetched = runner.interrupt.or(fetch(&latest.url, &packed)).await;
    fetched.map_err(|_| Error::new(Class::Cancelled, "stopped during the download of Device Tester"))??;
    crate::on_target::user::user_directory(&part, user)?;
    let (zip, into, owner) = (packed.clone(), part.clone(), user.cloned());
    let top = blocking(move || unpack(&zip, &into, owner.as_ref())).await;
    agent_fs::remove::remove_file(&packed, above)?;
    let top =
        top.map_err(|why| Error::upstream(format!("the zip of Device Tester cannot be unpacked: {why}")))?;
    fs_err::rename(&top, directory)?;
    if top != part {
        agent_fs::remove::remove_tree(&part, above)?;
    }
    Ok(())
}

fn latest(body: &str) -> Result<Latest> {
    let answer: ApiAnswer = serde_json::from_str(body).map_err(|error| {
        Error::upstream("the answer about Device Tester is not as documented").because(&error)
    })?;
    // The documents show a boolean; a text is the same.
    let succeeded = answer.success == true
        || answer.success.as_str().is_some_and(|text| text.eq_ignore_ascii_case("true"));
    match answer.latest_bk {
        Some(latest) if succeeded => Ok(latest),
        _ => {
            let message = answer.message.unwrap_or_else(|| "without a message".into());
            Err(Error::upstream(format!("AWS offers no Device Tester: {}", message.escape_debug())))
        }
    }
}

async fn fetch(url: &str, into: &Path) -> Result<()> {
    let failed = |error: reqwest::Error| {
        // The address is a secret for an hour.
        Error::upstream("the zip of Device Tester cannot be downloaded").because(&error.without_url())
    };
    let client =
        reqwest::Client::builder().read_timeout(SILENCE).connect_timeout(SILENCE).build().map_err(failed)?;
    let mut response =
        client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    let mut file = fs_err::tokio::File::create(into).await?;
    let mut bytes = 0;
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        bytes += chunk.len() as u64;
        if bytes > MOST_PACKED {
            return Err(Error::upstream(format!(
                "the zip of Device Tester is larger than {MOST_PACKED} bytes"
            )));
        }
        file.write_all(&chunk).await?;
    }
    file.flush().await?;
    Ok(())
}

/// Unpacks the zip with the user's rights; returns the directory with the program.
fn unpack(zip: &Path, into: &Path, user: Option<&User>) -> Result<PathBuf, String> {
    let file = fs_err::File::open(zip).map_err(|error| error.to_string())?;
    let work = || extract(file, into);
    let done = match user {
        Some(user) => Credentials::of(user.uid, user.gid).act(work),
        None => work(),
    };
    done.map_err(|error: io::Error| error.to_string())?;
    let below = fs_err::read_dir(into).map_err(|error| error.to_string())?;
    let below = below.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| !path.is_symlink());
    let mut found = std::iter::once(into.to_owned()).chain(below).filter(|path| path.join(PROGRAM).is_file());
    found.next().ok_or_else(|| format!("it has no {PROGRAM}"))
}

fn extract(file: impl io::Read + io::Seek, into: &Path) -> io::Result<()> {
    let mut archive = zip::ZipArchive::new(file).map_err(io::Error::other)?;
    if archive.len() > MOST_ENTRIES {
        return Err(io::Error::other("it has too many files"));
    }
    let mut left = MOST_BYTES;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(io::Error::other)?;
        let shown = entry.name().map_err(io::Error::other)?.escape_debug().to_string();
        let path =
            entry.enclosed_name().ok_or_else(|| io::Error::other(format!("`{shown}` leads out of it")))?;
        let path = into.join(path);
        if entry.is_dir() {
            fs_err::create_dir_all(&path)?;
            continue;
        }
        if entry.is_symlink() {
            return Err(io::Error::other(format!("`{shown}` is a link")));
        }
        if let Some(above) = path.parent() {
            fs_err::create_dir_all(above)?;
        }
        let mut made = fs_err::OpenOptions::new().write(true).create_new(true).open(&path)?;
        let copied = io::copy(&mut io::Read::take(&mut entry, left.saturating_add(1)), &mut made)?;
        left = left.checked_sub(copied).ok_or_else(|| io::Error::other("it is too large"))?;
        let is_program = entry.unix_mode().is_some_and(|mode| mode & 0o100 != 0) || path.ends_with(PROGRAM);
        let mode = if is_program { 0o755 } else { 0o644 };
        fs_err::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    fn zip_of(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        for (name, text) in entries {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(text.as_bytes()).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    #[test]
    fn a_zip_is_unpacked_and_a_hostile_one_is_not() {
        let place = tempfile::tempdir().unwrap();
        for (index, (entries, wanted)) in [
            (vec![(PROGRAM, "#!"), ("tests/GGV2Q_1.0.0/suite/suite.json", "{}")], Ok("")),
            (vec![("devicetester_linux/bin/devicetester_linux_x86-64", "#!")], Ok("devicetester_linux")),
            (vec![("readme", "")], Err("it has no bin/")),
            (vec![("../outside", "x"), (PROGRAM, "")], Err("leads out")),
            (vec![("/etc/x", "x"), (PROGRAM, "")], Err("")),
        ]
        .into_iter()
        .enumerate()
        {
            let (file, into) = (place.path().join("zip"), place.path().join(index.to_string()));
            fs_err::write(&file, zip_of(&entries)).unwrap();
            fs_err::create_dir(&into).unwrap();
            match (unpack(&file, &into, None), wanted) {
                (Ok(top), Ok(wanted)) => {
                    assert_eq!(top, into.join(wanted));
                    let mode = fs_err::metadata(top.join(PROGRAM)).unwrap().permissions();
                    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o755);
                }
                (Err(why), Err(wanted)) => assert!(why.contains(wanted), "{entries:?}: {why}"),
                // An absolute path may also land inside.
                (Ok(_), Err("")) => assert!(!Path::new("/etc/x").exists()),
                (got, _) => panic!("{entries:?}: {got:?}"),
            }
        }
        assert!(!place.path().join("outside").exists());
        fs_err::write(place.path().join("zip"), "no zip").unwrap();
        assert!(unpack(&place.path().join("zip"), place.path(), None).is_err());
    }

    #[test]
    fn answers_of_the_api_are_checked() {
        let good = r#"{"Success": true, "Message": "", "LatestBk": {"Version": "4.9.4",
            "TestSuiteVersion": "GGV2Q_2.5.4", "DownloadURL": "https://x/y.zip"}}"#;
        assert_eq!(latest(good).unwrap().url, "https://x/y.zip");
        assert!(latest(&good.replace("true", "\"True\"")).is_ok());
        for (body, why) in [
            ("<html>", "not as documented"),
            (r#"{"Success": false, "Message": "no\nway"}"#, r"no\nway"),
            (r#"{"Success": true}"#, "without a message"),
            (&good.replace("true", "false"), "offers no"),
        ] {
            let error = latest(body).unwrap_err();
            assert!(error.message.contains(why), "{body}: {error}");
        }
        assert_eq!((suite_type("GGV2Q_2.5.4"), suite_type("Mine")), (Some("GGV2"), None));
    }
}
