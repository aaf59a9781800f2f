//! The versions that a release moves together, and the changelog that names them.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::guide::{beside, pages};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The kinds of change that Keep a Changelog knows.
const KINDS: [&str; 6] = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What follows the first `name = ` or `name: ` at the beginning of a line.
fn field(text: &str, name: &str) -> String {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(['=', ':']));
    value.unwrap_or_else(|| panic!("no {name}")).trim().trim_matches('"').into()
}

#[test]
fn one_version_is_that_of_crate_chart_clients_and_changelog() {
    for file in ["charts/upgrade-gate/Chart.yaml", "clients/python/pyproject.toml"] {
        assert_eq!(field(&text(file), "version"), VERSION, "{file}");
    }
    for file in ["clients/node/package.json", "clients/node/package-lock.json"] {
        let package: Value = serde_json::from_str(&text(file)).unwrap();
        assert_eq!(package["version"], VERSION, "{file}");
    }
    assert_eq!(field(&text("Dockerfile"), "ARG VERSION"), VERSION);
    let newest =
        text("CHANGELOG.md").lines().find_map(|line| Some(line.strip_prefix("## [")?.to_owned()));
    assert_eq!(newest.unwrap().split(']').next(), Some(VERSION));
}

#[test]
fn pages_name_the_stock_image_by_the_version_of_today() {
    for (page, text) in pages().into_iter().chain(beside()) {
        for (at, name) in text.match_indices("upgrade-gate:") {
            let version: String = text[at + name.len()..]
                .chars()
                .take_while(|c| c.is_ascii_digit() || *c == '.')
                .collect();
            let version = version.trim_end_matches('.');
            // `upgrade-gate:1` is every release that is compatible with 1.0.0
            let names_a_release = version.matches('.').count() == 2;
            assert!(!names_a_release || version == VERSION, "{}: {name}{version}", page.display());
        }
    }
}

#[test]
fn pages_name_the_chart_as_a_dependency_by_the_version_of_today() {
    let mut named = 0;
    for (page, text) in pages().into_iter().chain(beside()) {
        for (_, dependency) in text.split("- name: upgrade-gate\n").enumerate().skip(1) {
            let fields: Vec<&str> =
                dependency.lines().take_while(|line| line.starts_with("    ")).collect();
            let version = fields.iter().find_map(|line| line.trim().strip_prefix("version: "));
            if let Some(version) = version {
                assert_eq!(version, VERSION, "{}", page.display());
                named += 1;
            }
        }
    }
    assert!(named > 1, "{named}");
}

#[test]
fn the_changelog_has_the_form_that_it_says() {
    let text = text("CHANGELOG.md");
    let mut releases = vec![];
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            let (version, date) = heading.split_once(" - ").expect("a version and a date");
            let version = version.trim_start_matches('[').trim_end_matches(']');
            releases.push(semver(version));
            let numbers: Vec<_> = date.split('-').map(|part| part.parse::<u32>().is_ok()).collect();
            let open = date == "Unreleased" && releases.len() == 1;
            assert!(open || numbers == [true, true, true], "{heading}");
        } else if let Some(kind) = line.strip_prefix("### ") {
            assert!(KINDS.contains(&kind), "{kind} is not a kind of change");
        }
    }
    assert!(
        releases.len() > 1 && releases.is_sorted_by(|newer, older| newer > older),
        "{releases:?}"
    );
}

fn semver(version: &str) -> Vec<u64> {
    version.split('.').map(|part| part.parse().unwrap()).collect()
}
