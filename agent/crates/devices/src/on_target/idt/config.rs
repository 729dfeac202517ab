//! Renders Device Tester's configuration: `config.json`, `device.json` and `userdata.json`.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::lab::DeviceTester;
use crate::request::DeviceRequest;

/// The device under test, as Device Tester reaches it.
#[derive(Clone, Copy, Debug)]
pub struct Dut<'a> {
    /// The name of the device in the lab; also that of its pool.
    pub name: &'a str,
    pub ip: IpAddr,
    pub port: u16,
    /// A private key that Device Tester's user can read. Without one, root has an empty password.
    pub key: Option<&'a Path>,
}

/// `config.json`: the region and the credentials. All else stays as the lab's own file has it.
///
/// # Errors
/// If the lab's file is no JSON object.
pub fn config(own: Option<&str>, region: &str, has_credentials: bool) -> Result<String, String> {
    let mut config = match own {
        Some(text) => match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return Err("configs/config.json is not a JSON object".into()),
            Err(error) => return Err(format!("configs/config.json is not JSON: {error}")),
        },
        None => Map::new(),
    };
    config.insert("awsRegion".into(), region.into());
    config.remove("auth");
    if has_credentials {
        config.insert("auth".into(), json!({ "method": "environment" }));
    }
    for (name, value) in [
        ("log", json!({ "location": "../logs/" })),
        ("configFiles", json!({ "root": "../configs", "device": "../configs/device.json" })),
        ("testPath", json!("../tests/")),
        ("reportPath", json!("../results/")),
    ] {
        config.entry(name).or_insert(value);
    }
    Ok(pretty(&Value::Object(config)))
}

/// `device.json`: one pool with one device.
pub fn device(tester: &DeviceTester, request: &DeviceRequest, dut: &Dut) -> String {
    let features: Vec<Value> =
        tester.features.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    let auth = match dut.key {
        Some(key) => json!({ "method": "pki", "credentials": { "user": "root", "privKeyPath": key } }),
        None => json!({ "method": "password", "credentials": { "user": "root", "password": "" } }),
    };
    pretty(&json!([{
        "id": dut.name,
        "sku": request.machine,
        "features": features,
        "devices": [{
            "id": dut.name,
            "operatingSystem": "Linux",
            "connectivity": { "protocol": "ssh", "ip": dut.ip.to_string(), "port": dut.port, "auth": auth },
        }],
    }]))
}

/// `userdata.json`: the lab's template with the words of the request, as `{{request.image}}`. Placeholders of Device
/// Tester itself, as `{{AWS.Parameter.NAME}}`, stay.
///
/// # Errors
/// If it is no JSON object, or has an unknown placeholder.
pub fn userdata(template: &str, request: &DeviceRequest, device: &str) -> Result<String, String> {
    let words = [
        ("image", request.image.as_str()),
        ("machine", request.machine.as_str()),
        ("id", request.id.as_str()),
        ("commit", request.job.commit.as_deref().unwrap_or_default()),
        ("device", device),
    ];
    let value: Value = serde_json::from_str(template).map_err(|error| format!("it is not JSON: {error}"))?;
    if !value.is_object() {
        return Err("it is not a JSON object".into());
    }
    Ok(pretty(&filled(value, &words)?))
}

/// The value with its placeholders replaced in all texts.
fn filled(value: Value, words: &[(&str, &str)]) -> Result<Value, String> {
    const OPEN: &str = "{{request.";
    Ok(match value {
        Value::String(text) => {
            let mut done = String::new();
            let mut rest = text.as_str();
            while let Some((before, after)) = rest.split_once(OPEN) {
                let (name, behind) = after.split_once("}}").ok_or("a placeholder has no end")?;
                let word = words.iter().find(|(known, _)| *known == name.trim()).ok_or_else(|| {
                    let known: Vec<&str> = words.iter().map(|(known, _)| *known).collect();
                    format!("`{OPEN}{name}}}}}` is unknown; there are request.{}", known.join(", request."))
                })?;
                done.push_str(before);
                done.push_str(word.1);
                rest = behind;
            }
            Value::String(done + rest)
        }
        Value::Array(values) => {
            Value::Array(values.into_iter().map(|value| filled(value, words)).collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| Ok((name, filled(value, words)?)));
            Value::Object(fields.collect::<Result<Map<_, _>, String>>()?)
        }
        other => other,
    })
}

/// What Greengrass V2's suite needs at least, for a lab without a template. `nucleus`: the zip of the nucleus.
pub fn greengrass_userdata(nucleus: &Path) -> String {
    pretty(&json!({
        "TempResourcesDirOnDevice": "/tmp/idt",
        "InstallationDirRootOnDevice": "/greengrass",
        "GreengrassNucleusZip": nucleus,
        "PreInstalled": "no",
    }))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "config_tests.rs"]
mod tests;
