//! The table of ranges against the IANA special-purpose registries. To update: copy the rows of the new registries to
//! `special_purpose.txt`; these tests then name the ranges that the table lacks.

use ipnet::IpNet;

use super::*;

/// A row of a registry.
pub(super) struct Row {
    pub(super) net: IpNet,
    name: &'static str,
    rfcs: Vec<&'static str>,
    /// Whether the registry calls the range globally reachable. It does not for a range that was terminated.
    pub(super) is_reachable: bool,
}

/// Returns the rows of both registries.
pub(super) fn rows() -> Vec<Row> {
    let lines = include_str!("special_purpose.txt").lines();
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let row = |line: &'static str| {
        let cells: Vec<&str> = line.split(" | ").collect();
        let [net, name, rfcs, reachable] = cells[..] else { panic!("{line}") };
        assert!(["True", "False", "N/A"].contains(&reachable), "{line}");
        let rfcs = rfcs.split(", ").collect();
        Row { net: net.parse().unwrap(), name, rfcs, is_reachable: reachable == "True" }
    };
    lines.map(row).collect()
}

/// Returns the verdicts on the addresses of a network.
fn verdicts(net: &IpNet) -> Vec<Verdict> {
    let around = RANGES.iter().position(|range| range.net.contains(net)).unwrap();
    let within = RANGES[..around].iter().filter(|range| net.contains(&range.net));
    within.chain([&RANGES[around]]).map(|range| range.verdict).collect()
}

#[test]
fn every_row_of_the_special_purpose_registries_has_a_verdict() {
    let rows = rows();
    assert_eq!(rows.len(), 26 + 25);
    for Row { net, name, is_reachable, .. } in &rows {
        let verdicts = verdicts(net);
        let is = |verdict: Verdict| verdicts.iter().all(|found| *found == verdict);
        if *is_reachable {
            let is_listed = RANGES.iter().any(|range| range.net == *net);
            assert!(
                is(Verdict::Public) || is_listed,
                "{net} ({name}) is reachable, and refused without a reason"
            );
        } else {
            assert!(is(Verdict::Refused), "{net} ({name}) is not reachable: {verdicts:?}");
        }
    }
}

#[test]
fn every_range_is_a_row_of_the_registry_that_it_names() {
    let rows = rows();
    let mut others = Vec::new();
    for range in RANGES {
        match range.source {
            Source::SpecialPurpose(rfc) => assert!(
                rows.iter().any(|row| row.net == range.net && row.rfcs.contains(&rfc)),
                "{} is not in the registry with {rfc}",
                range.net
            ),
            Source::AddressSpace(_) | Source::Vendor(_) => others.push(range.net.to_string()),
        }
    }
    assert_eq!(
        others,
        ["168.63.129.16/32", "224.0.0.0/4", "0.0.0.0/0", "::/8", "2000::/3", "fec0::/10", "ff00::/8", "::/0"]
    );
}
