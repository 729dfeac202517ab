//! A job without a lab: it starts the guest itself. BitBake is a stand-in, the guest is not.

use build_agent_tests::{Sandbox, commit, survivors};
use serde_json::{Value, json};

use build_agent_tests::guest::{IMAGE, image, packages};

#[test]
fn a_job_tests_its_image_on_a_guest_without_a_lab() {
    let test = "a_job_tests_its_image_on_a_guest_without_a_lab";
    let Some(packages) = packages(test) else { return };
    let Some(sandbox) = Sandbox::new(test) else { return };
    let deploy = sandbox.upstream().join("deploy").join(IMAGE);
    std::fs::create_dir_all(&deploy).unwrap();
    image(&packages, &deploy, "");
    commit(&sandbox.upstream(), "Add an image");
    let text = sandbox.manifest_text().replace("yocto_check_layer = true", "yocto_check_layer = false");
    let text = text.replace("bitbake_layers = [\"show-layers\"]\n", "");
    let device = format!(
        "[build]\ntargets = [\"{IMAGE}\"]\n\n[device]\npool = \"qemu\"\nimage = \"{IMAGE}\"\n\
         tests = [\"commands\"]\ncommands = [\"uname -s\", \"exit 7\"]\n"
    );
    sandbox.write_manifest(&format!("{text}\n{device}"));
    sandbox.run().assert_code(&[1]);
    let result = sandbox.result();
    let unit = |name: String| {
        let units = result["units"].as_array().unwrap();
        units
            .iter()
            .find(|unit| unit["name"] == name)
            .unwrap_or_else(|| panic!("no {name} in {units:#?}"))
            .clone()
    };
    assert_eq!(unit(format!("boot {IMAGE} on qemu"))["outcome"], "passed");
    let commands = unit(format!("commands {IMAGE} on qemu"));
    let cases: Vec<(&Value, &Value)> =
        commands["cases"].as_array().unwrap().iter().map(|case| (&case["name"], &case["outcome"])).collect();
    assert_eq!(cases, [(&json!("uname -s"), &json!("passed")), (&json!("exit 7"), &json!("failed"))]);
    assert_eq!(unit(format!("device qemu (qemux86-64) {IMAGE}"))["outcome"], "failed");
    assert!(sandbox.out().join("logs/console.log").exists());
    assert!(!sandbox.work().join("meta-tested-scarthgap/guest").exists(), "its files are removed");
    let left = survivors(sandbox.path());
    assert!(left.is_empty(), "{left:?}");
    sandbox.assert_nothing_runs();
}
