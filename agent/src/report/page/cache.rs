//! What the caches saved, and what that cost.

use maud::{Markup, html};

use agent_objects::prices::usd;
use agent_types::events::{CacheOutcome, Sstate};
use agent_types::words::bytes;

use super::job::{Job, Section};
use super::text::{count, line, number, percent};
use crate::report::console::duration;
use crate::report::cost::Cost;
use crate::report::summary::{Summary, TierResult};

/// The sum of all builds.
pub fn sstate(summary: &Summary) -> Sstate {
    let mut sum = Sstate::default();
    for found in summary.units.iter().filter_map(|unit| unit.sstate) {
        sum.wanted += found.wanted;
        sum.local += found.local;
        sum.mirrors += found.mirrors;
        sum.missed += found.missed;
        sum.current += found.current;
    }
    sum
}

pub fn section(job: &Job) -> Option<Section> {
    let summary = job.summary;
    let sstate = sstate(summary);
    let signatures = signatures(summary);
    let cost = Cost::of_job(summary);
    if sstate.wanted == 0 && summary.cache.is_empty() && signatures.is_none() && cost.is_none() {
        return None;
    }
    let body = html! {
        @if sstate.wanted > 0 { (bar(&sstate)) }
        @if let Some(text) = signatures { p { (text) } }
        @if !summary.cache.is_empty() { (tiers(&summary.cache)) }
        @if let Some(cost) = cost { p { strong { "Cost: " } (cost.line()) } }
    };
    Some(Section { name: "caches", title: "Caches and costs", count: None, body })
}

fn bar(sstate: &Sstate) -> Markup {
    let parts = [
        ("local", "local", sstate.local),
        ("share", "from the share", sstate.mirrors),
        ("missed", "missed", sstate.missed),
    ];
    let whole = parts.iter().map(|(.., objects)| *objects).fold(0, u64::saturating_add).max(1);
    let mut from = 0.0;
    let bars: Vec<(&str, f64, f64)> = parts
        .iter()
        .map(|(class, _, objects)| {
            let width = *objects as f64 * 1000.0 / whole as f64;
            from += width;
            (*class, from - width, width)
        })
        .collect();
    html! {
        p {
            "BitBake wanted " (count(sstate.wanted, "shared state object"))
            @if sstate.current > 0 { " and had " (number(sstate.current)) " in place" }
            "."
        }
        svg class="bar tall" viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true" {
            @for (class, x, width) in bars {
                rect class=(format!("c-{class}")) x=(format!("{x:.1}")) width=(format!("{width:.1}")) height="10" {}
            }
        }
        ul.legend {
            @for (class, text, objects) in parts {
                li {
                    span class=(format!("swatch c-{class}")) {}
                    strong { (percent(objects, whole)) } " " (text) " (" (number(objects)) ")"
                }
            }
        }
    }
}

fn signatures(summary: &Summary) -> Option<String> {
    let queries: Vec<_> = summary.units.iter().flat_map(|unit| &unit.cache_queries).collect();
    let hits = queries.iter().filter(|query| query.outcome == CacheOutcome::Hit).count() as u64;
    let saved: f64 = queries.iter().filter_map(|query| query.seconds_saved).sum();
    (!queries.is_empty()).then(|| {
        let all = count(queries.len() as u64, "query").replace("querys", "queries");
        format!("The signature cache answered {hits} of {all}; that saved {}.", duration(saved))
    })
}

fn tiers(tiers: &[TierResult]) -> Markup {
    html! {
        div.scroll tabindex="0" role="group" aria-label="Shared caches" {
            table {
                caption.hidden { "Shared caches" }
                thead {
                    tr {
                        th scope="col" { "Share" } th scope="col" { "State" } th.number scope="col" { "Read" }
                        th.number scope="col" { "Published" } th.number scope="col" { "Requests" }
                        th.number scope="col" { "Waited" } th.number scope="col" { "Price" }
                    }
                }
                tbody {
                    @for tier in tiers {
                        tr {
                            td {
                                (tier.tier.word())
                                @if let Some(path) = &tier.path { " " code { (line(path)) } }
                            }
                            td {
                                @if let Some(state) = tier.state { (state.to_string()) }
                                @if let Some(reason) = &tier.reason { ": " (line(reason)) }
                            }
                            td.number { (number(tier.traffic.objects_read)) " (" (bytes(tier.traffic.bytes_read)) ")" }
                            td.number {
                                @if let Some(counts) = &tier.published {
                                    (number(counts.published)) " (" (bytes(counts.bytes)) ")"
                                }
                            }
                            td.number { (number(tier.traffic.operations)) }
                            td.number { (duration(tier.traffic.seconds_waited)) }
                            td.number { @if tier.traffic.usd > 0.0 { (usd(tier.traffic.usd)) } }
                        }
                    }
                }
            }
        }
    }
}
