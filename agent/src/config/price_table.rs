//! What the machine of a job costs: the built-in table, and what the manifest and the variables say instead.

use std::collections::BTreeMap;

use agent_types::prices::{JobPrices, MachinePrice};

use super::environment::AgentEnvironment;
use super::settings::{CostSettings, Settings, SharedCache};

/// What AWS charges in this region for a minute on demand: <https://aws.amazon.com/codebuild/pricing/>. Other regions can
/// have other prices.
const REGION: &str = "us-east-1";

/// When the table was compiled, from public copies of the price list. They disagree on `BUILD_GENERAL1_XLARGE`, which
/// therefore is missing; most of them have 0.20 for `BUILD_GENERAL1_2XLARGE`, one has 0.25.
const AS_OF: &str = "August 2026";

/// A compute type of CodeBuild.
struct ComputeType {
    name: &'static str,
    is_arm: bool,
    processors: usize,
    /// Of the description; the machine shows a little less.
    memory_gib: f64,
    usd_per_minute: f64,
}

const fn x86(name: &'static str, processors: usize, memory_gib: f64, usd_per_minute: f64) -> ComputeType {
    ComputeType { name, is_arm: false, processors, memory_gib, usd_per_minute }
}

const fn arm(name: &'static str, processors: usize, memory_gib: f64, usd_per_minute: f64) -> ComputeType {
    ComputeType { name, is_arm: true, processors, memory_gib, usd_per_minute }
}

/// Linux, on demand.
const TABLE: [ComputeType; 6] = [
    x86("BUILD_GENERAL1_SMALL", 2, 4.0, 0.005),
    x86("BUILD_GENERAL1_MEDIUM", 4, 8.0, 0.01),
    x86("BUILD_GENERAL1_LARGE", 8, 16.0, 0.02),
    x86("BUILD_GENERAL1_2XLARGE", 72, 145.0, 0.2),
    arm("BUILD_GENERAL1_SMALL", 2, 4.0, 0.0034),
    arm("BUILD_GENERAL1_LARGE", 8, 16.0, 0.015),
];

/// EFS with elastic throughput in us-east-1: <https://aws.amazon.com/efs/pricing/>.
const EFS_READ_GB: f64 = 0.03;
const EFS_WRITE_GB: f64 = 0.06;

/// A NAT gateway in us-east-1: <https://aws.amazon.com/vpc/pricing/>.
const NAT_GB: f64 = 0.045;

/// The machine that runs the agent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachineShape {
    pub is_arm: bool,
    pub processors: usize,
    pub memory: Option<u64>,
}

impl ComputeType {
    /// Whether a machine of this type looks like that. Machines with graphics cards have more memory.
    fn fits(&self, machine: MachineShape) -> bool {
        let Some(memory) = machine.memory else { return false };
        let gib = memory as f64 / (1u64 << 30) as f64;
        let same = (self.is_arm, self.processors) == (machine.is_arm, machine.processors);
        same && (0.7 * self.memory_gib..=1.1 * self.memory_gib).contains(&gib)
    }
}

/// The prices of a job on this machine.
pub fn job_prices(settings: &Settings, environment: &AgentEnvironment, machine: MachineShape) -> JobPrices {
    let cost = &settings.cost;
    let in_codebuild = environment.codebuild.as_ref().is_some_and(|build| build.build_id.is_some());
    // CodeBuild reaches EFS only from a VPC, and from there the internet only through a NAT gateway.
    let on_efs = in_codebuild && matches!(settings.cache.share, Some(SharedCache::Directory(_)));
    let default = |price: f64| on_efs.then_some(price);
    JobPrices {
        machine: machine_price(cost, environment, in_codebuild, machine),
        efs_read_gb: cost.efs_read_gb.or(default(EFS_READ_GB)),
        efs_write_gb: cost.efs_write_gb.or(default(EFS_WRITE_GB)),
        nat_gb: cost.nat_gb.or(default(NAT_GB)),
    }
}

/// The variables come first: they are about this machine, and a manifest is for many.
fn machine_price(
    cost: &CostSettings,
    environment: &AgentEnvironment,
    in_codebuild: bool,
    machine: MachineShape,
) -> Option<MachinePrice> {
    let by_variable = environment.compute_type.as_deref();
    let named = by_variable.or(cost.compute_type.as_deref());
    let of_shape = || TABLE.iter().find(|entry| in_codebuild && entry.fits(machine));
    if let Some(usd_per_minute) = environment.usd_per_minute {
        let compute_type = named.or_else(|| Some(of_shape()?.name)).unwrap_or("this machine").to_owned();
        return Some(MachinePrice {
            compute_type,
            usd_per_minute,
            source: "variable BUILD_AGENT_USD_PER_MINUTE".into(),
        });
    }
    let name = named.or_else(|| Some(of_shape()?.name))?;
    if let Some(usd_per_minute) = of_manifest(&cost.per_minute, name) {
        let source = "manifest, [cost] per_minute".into();
        return Some(MachinePrice { compute_type: name.to_owned(), usd_per_minute, source });
    }
    let entry = TABLE.iter().find(|entry| (entry.name, entry.is_arm) == (name, machine.is_arm))?;
    let source = match environment.region.as_deref() {
        Some(REGION) => format!("AWS, {REGION}, {AS_OF}"),
        Some(region) => format!("AWS, {REGION}, {AS_OF}; {region} can differ"),
        None => format!("AWS, {REGION}, {AS_OF}; the region is not known"),
    };
    let guessed = if named.is_none() { "; the compute type follows from processors and memory" } else { "" };
    let (compute_type, usd_per_minute) = (name.to_owned(), entry.usd_per_minute);
    Some(MachinePrice { compute_type, usd_per_minute, source: source + guessed })
}

fn of_manifest(per_minute: &BTreeMap<String, f64>, name: &str) -> Option<f64> {
    per_minute.get(name).copied()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const GIB: f64 = (1u64 << 30) as f64;

    fn shape(is_arm: bool, processors: usize, gib: f64) -> MachineShape {
        MachineShape { is_arm, processors, memory: Some((gib * GIB) as u64) }
    }

    fn price(
        variables: &[(&str, &str)],
        cost: &CostSettings,
        machine: MachineShape,
    ) -> Option<(String, f64, String)> {
        let environment = AgentEnvironment::from_map(variables.iter().copied());
        let in_codebuild = environment.codebuild.is_some();
        let found = machine_price(cost, &environment, in_codebuild, machine)?;
        Some((found.compute_type, found.usd_per_minute, found.source))
    }

    #[test]
    fn codebuild_is_known_by_its_processors_and_memory() {
        let codebuild = [("CODEBUILD_BUILD_ID", "p:1"), ("AWS_REGION", "us-east-1")];
        let none = CostSettings::default();
        for (machine, wanted) in [
            (shape(false, 2, 3.0), Some(("BUILD_GENERAL1_SMALL", 0.005))),
            (shape(false, 4, 7.4), Some(("BUILD_GENERAL1_MEDIUM", 0.01))),
            (shape(false, 8, 15.2), Some(("BUILD_GENERAL1_LARGE", 0.02))),
            (shape(false, 72, 144.0), Some(("BUILD_GENERAL1_2XLARGE", 0.2))),
            (shape(true, 8, 15.5), Some(("BUILD_GENERAL1_LARGE", 0.015))),
            (shape(true, 2, 3.7), Some(("BUILD_GENERAL1_SMALL", 0.0034))),
            // Machines of a fleet, with a graphics card, or without a price.
            (shape(false, 36, 70.0), None),
            (shape(false, 4, 15.0), None),
            (shape(false, 16, 32.0), None),
            (shape(true, 48, 96.0), None),
            (MachineShape { is_arm: false, processors: 8, memory: None }, None),
        ] {
            let found = price(&codebuild, &none, machine);
            let found = found.as_ref().map(|(name, usd, _)| (name.as_str(), *usd));
            assert_eq!(found, wanted, "{machine:?}");
            assert_eq!(price(&[], &none, machine), None, "a desk is not CodeBuild");
        }
    }

    #[test]
    fn variables_and_manifest_override_the_table() {
        let build = ("CODEBUILD_BUILD_ID", "p:1");
        let region = ("AWS_REGION", "eu-west-1");
        let named = ("BUILD_AGENT_COMPUTE_TYPE", "BUILD_GENERAL1_2XLARGE");
        let paid = ("BUILD_AGENT_USD_PER_MINUTE", "0.5");
        let manifest = |compute_type: Option<&str>, prices: &[(&str, f64)]| CostSettings {
            compute_type: compute_type.map(str::to_owned),
            per_minute: prices.iter().map(|(name, usd)| ((*name).to_owned(), *usd)).collect(),
            ..CostSettings::default()
        };
        let large = shape(false, 8, 15.0);
        type Case<'a> = (&'a [(&'a str, &'a str)], CostSettings, Option<(&'a str, f64)>, &'a str);
        let table: [Case; 9] = [
            (
                &[build, region],
                manifest(None, &[]),
                Some(("BUILD_GENERAL1_LARGE", 0.02)),
                "eu-west-1 can differ",
            ),
            (&[build], manifest(None, &[]), Some(("BUILD_GENERAL1_LARGE", 0.02)), "the region is not known"),
            (&[named], manifest(None, &[]), Some(("BUILD_GENERAL1_2XLARGE", 0.2)), "AWS"),
            (&[named, paid], manifest(None, &[]), Some(("BUILD_GENERAL1_2XLARGE", 0.5)), "variable"),
            (&[paid], manifest(None, &[]), Some(("this machine", 0.5)), "variable"),
            (
                &[build],
                manifest(None, &[("BUILD_GENERAL1_LARGE", 0.03)]),
                Some(("BUILD_GENERAL1_LARGE", 0.03)),
                "manifest",
            ),
            (&[], manifest(Some("desk"), &[("desk", 0.001)]), Some(("desk", 0.001)), "manifest"),
            (
                &[named],
                manifest(Some("desk"), &[("desk", 0.001)]),
                Some(("BUILD_GENERAL1_2XLARGE", 0.2)),
                "AWS",
            ),
            (&[build], manifest(Some("unknown"), &[]), None, ""),
        ];
        for (variables, cost, wanted, source) in table {
            let found = price(variables, &cost, large);
            let pair = found.as_ref().map(|(name, usd, _)| (name.as_str(), *usd));
            assert_eq!(pair, wanted, "{variables:?} {cost:?}");
            assert!(found.is_none_or(|(_, _, said)| said.contains(source)), "{variables:?} {cost:?}");
        }
    }
}
