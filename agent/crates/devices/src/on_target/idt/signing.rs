//! Which suites of Device Tester AWS signs the reports of.

/// A suite whose reports AWS no longer signs. It still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsigned {
    /// How the names of its versions begin.
    prefix: &'static str,
    pub why: &'static str,
    pub instead: &'static str,
    pub source: &'static str,
}

const UNSIGNED: [Unsigned; 2] = [
    Unsigned {
        prefix: "GGQ_",
        why: "AWS signs no reports of Device Tester for Greengrass V1 any more; Greengrass V1 ended on 2026-10-07",
        instead: "qualify the device with the suite GGV2Q",
        source: "https://docs.aws.amazon.com/greengrass/v1/developerguide/dev-test-versions.html",
    },
    Unsigned {
        prefix: "FRQ_1.",
        why: "AWS has signed no reports of the FreeRTOS qualification 1.0 since October 2022",
        instead: "qualify the device with FRQ 2.0",
        source: "https://docs.aws.amazon.com/freertos/latest/userguide/idt-freertos-qualification.html",
    },
];

/// How the names of AWS's own suites begin. All others are the lab's own.
const QUALIFICATIONS: [&str; 3] = ["GGV2Q_", "GGQ_", "FRQ_"];

/// Why AWS does not sign the reports of this suite (`GGQ_1.3.1`).
pub fn unsigned(suite: &str) -> Option<Unsigned> {
    UNSIGNED.into_iter().find(|unsigned| suite.starts_with(unsigned.prefix))
}

/// Whether the suite qualifies devices for AWS's catalog.
pub fn is_qualification(suite: &str) -> bool {
    QUALIFICATIONS.iter().any(|prefix| suite.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_suites_are_not_signed() {
        for (suite, is_unsigned, qualifies) in [
            ("GGV2Q_2.5.4", false, true),
            ("GGQ_1.3.1", true, true),
            ("FRQ_1.6.2", true, true),
            ("FRQ_2.1.0", false, true),
            ("MySuite_1.0.0", false, false),
            ("GGV2QX_1.0.0", false, false),
        ] {
            assert_eq!(
                (unsigned(suite).is_some(), is_qualification(suite)),
                (is_unsigned, qualifies),
                "{suite}"
            );
        }
    }
}
