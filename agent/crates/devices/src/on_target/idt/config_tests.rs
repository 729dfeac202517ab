use std::time::Duration;

use super::*;
use crate::fixtures::request::request;

fn tester() -> DeviceTester {
    DeviceTester {
        suite: "GGV2Q".into(),
        directory: None,
        accept_license: true,
        profile: None,
        region: "eu-central-1".into(),
        groups: Vec::new(),
        features: vec![("arch".into(), "aarch64".into()), ("ml".into(), "no".into())],
        userdata: None,
        stall: Duration::from_secs(60),
    }
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_configuration_has_the_region_and_never_keys() {
    let own = r#"{"awsRegion": "us-east-1", "certificatePath": "../certs", "auth": {"method": "file",
        "credentials": {"profile": "admin"}}, "testPath": "/mine"}"#;
    let merged = json_of(&config(Some(own), "eu-central-1", true).unwrap());
    assert_eq!(merged["awsRegion"], "eu-central-1");
    assert_eq!(merged["auth"], json!({ "method": "environment" }), "the lab's own profile is not used");
    assert_eq!((&merged["certificatePath"], &merged["testPath"]), (&json!("../certs"), &json!("/mine")));
    let fresh = json_of(&config(None, "eu-central-1", false).unwrap());
    assert_eq!(fresh.get("auth"), None);
    assert_eq!(fresh["configFiles"]["device"], "../configs/device.json");
    for text in ["", "[]", "{"] {
        assert!(config(Some(text), "r", true).is_err(), "{text}");
    }
    let again = config(Some(&merged.to_string()), "eu-central-1", true).unwrap();
    assert_eq!(json_of(&again), merged);
}

#[test]
fn a_device_is_a_pool_of_one() {
    let dut = Dut { name: "rpi-1", ip: "10.0.0.7".parse().unwrap(), port: 2222, key: Some(Path::new("/k")) };
    let text = device(&tester(), &request(), &dut);
    let pool = &json_of(&text)[0];
    assert_eq!((&pool["id"], &pool["sku"]), (&json!("rpi-1"), &json!(request().machine)));
    assert_eq!(pool["features"][1], json!({ "name": "ml", "value": "no" }));
    let connectivity = &pool["devices"][0]["connectivity"];
    assert_eq!(connectivity["auth"]["credentials"], json!({ "user": "root", "privKeyPath": "/k" }));
    assert_eq!((&connectivity["ip"], &connectivity["port"]), (&json!("10.0.0.7"), &json!(2222)));
    let without = json_of(&device(&tester(), &request(), &Dut { key: None, ..dut }));
    assert_eq!(without[0]["devices"][0]["connectivity"]["auth"]["method"], "password");
}

#[test]
fn the_lab_s_template_gets_the_words_of_the_request() {
    let mut request = request();
    request.image = "a\"b".into();
    let template = r#"{"x": ["{{request.image}} on {{ request.machine }}{{request.device}}", 1],
        "secret": "{{AWS.Parameter.password}}"}"#;
    // A placeholder of another form is nobody's.
    let value = json_of(&userdata(template, &request, "d").unwrap());
    assert_eq!(value["x"][0], "a\"b on {{ request.machine }}d");
    let template = template.replace("{{ request.machine }}", "{{request.machine}}");
    let value = json_of(&userdata(&template, &request, "d").unwrap());
    assert_eq!(value["x"][0], format!("a\"b on {}d", request.machine));
    assert_eq!(value["secret"], "{{AWS.Parameter.password}}");
    for (bad, why) in [
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
        (r#"{"a": "{{request.token}}"}"#, "is unknown"),
        (r#"{"a": "{{request.image"}"#, "no end"),
    ] {
        assert!(userdata(bad, &request, "d").unwrap_err().contains(why), "{bad}");
    }
    assert_eq!(json_of(&greengrass_userdata(Path::new("/n.zip")))["GreengrassNucleusZip"], "/n.zip");
}
