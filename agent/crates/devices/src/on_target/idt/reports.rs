//! Reads `awsiotdevicetester_report.xml`. The suite's own report is like JUnit's.

use crate::junit::{self, SuiteReport};

/// The report for AWS's catalog of devices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QualificationReport {
    pub suite_version: String,
    pub signature: String,
    /// Of the product, not of the device.
    pub features: Vec<Feature>,
    /// The suite's report once more; `None`, if there is none in it.
    pub suite: Option<SuiteReport>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    pub name: String,
    /// `supported`, `not-supported` …
    pub value: String,
    pub required: bool,
}

/// Reads the report.
///
/// # Errors
/// Why it cannot be relied upon.
pub fn parse_qualification(text: &str) -> Result<QualificationReport, String> {
    let document = junit::parse(text)?;
    if document.root != "apnreport" {
        return Err(format!("its top element is `{}`, not `apnreport`", document.root));
    }
    let of_product = |element: &&junit::Element| {
        element.name == "feature" && element.inside.iter().any(|name| name == "awsproduct")
    };
    let feature = |element: &junit::Element| {
        Ok(Feature {
            name: element.attribute("name").ok_or("a `feature` has no name")?,
            value: element.attribute("value").unwrap_or_default(),
            // What is not said to be optional is required.
            required: element.attribute("type").as_deref() != Some("optional"),
        })
    };
    let features = document.elements.iter().filter(of_product).map(feature).collect::<Result<_, String>>()?;
    Ok(QualificationReport {
        suite_version: document.text("testsuiteversion"),
        signature: document.text("signature"),
        features,
        suite: document.suite,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_qualification_report_has_features_of_the_product() {
        const SUITE: &str =
            "<testsuites><testsuite name='mqtt'><testcase name='a'/></testsuite></testsuites>";
        let text = format!(
            r#"<?xml version="1.0"?><apnreport>
            <awsiotdevicetesterversion>4.9.4</awsiotdevicetesterversion>
            <testsuiteversion>GGV2Q_2.5.4</testsuiteversion><signature>abc=</signature><keyname>k</keyname>
            <session><testsession>x</testsession><starttime/><endtime/></session>
            <awsproduct><name>Greengrass</name><version>2</version>
              <features><feature name="core" value="supported" type="required"/>
              <feature name="ml" value="not-supported" type="optional"></feature>
              <feature name="odd" value="supported"/></features></awsproduct>
            <device><sku>s</sku><name>d</name><features><feature name="arch" value="x"/></features>
            <executionMethod>ssh</executionMethod></device>
            <devenvironment><os name="linux"/></devenvironment>
            <report>{SUITE}</report></apnreport>"#
        );
        let report = parse_qualification(&text).unwrap();
        assert_eq!((report.suite_version.as_str(), report.signature.as_str()), ("GGV2Q_2.5.4", "abc="));
        let features: Vec<(&str, bool)> =
            report.features.iter().map(|feature| (&*feature.name, feature.required)).collect();
        assert_eq!(features, [("core", true), ("ml", false), ("odd", true)]);
        assert_eq!(report.suite, Some(junit::parse_suite(SUITE).unwrap()));
        assert!(junit::parse_suite(&text).unwrap_err().contains("apnreport"));
        let nameless = text.replace("name=\"odd\"", "");
        for (text, why) in [("<testsuites/>", "apnreport"), ("", "empty"), (&*nameless, "has no name")] {
            assert!(parse_qualification(text).unwrap_err().contains(why), "{why}");
        }
    }
}
