//! The front page and the guide say what the code says: their generated parts, and the files they name.

mod support;
#[path = "readme/support_table.rs"]
mod support_table;
#[path = "readme/versions.rs"]
mod versions;
#[path = "readme/workflows.rs"]
mod workflows;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use support::guide::{beside, pages, part};
use upgrade_gate::Outcome;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A generated part: the page, the part's name, and what the code says, given what is written there.
type Part = (&'static str, &'static str, fn(&str) -> String);

const PARTS: [Part; 2] = [
    ("README.md", "exit codes", |_| exit_codes_in_short()),
    ("docs/exit-codes.md", "exit codes", exit_codes),
];

fn exit_codes_in_short() -> String {
    let row = |outcome: &Outcome| {
        format!("| {} | {} | {} |\n", outcome.code(), outcome.meaning(), outcome.retry())
    };
    format!(
        "| code | meaning | retry |\n| --- | --- | --- |\n{}",
        Outcome::ALL.iter().map(row).collect::<String>()
    )
}

/// The table of exit codes, with the advice that the page gives for each.
fn exit_codes(written: &str) -> String {
    let advice: BTreeMap<&str, &str> = written
        .lines()
        .filter_map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            Some((*cells.first()?, *cells.get(3)?))
        })
        .collect();
    let rows: Vec<String> = Outcome::ALL
        .iter()
        .map(|outcome| {
            let code = outcome.code().to_string();
            let advice = advice.get(code.as_str()).filter(|advice| !advice.is_empty());
            let advice = advice.unwrap_or_else(|| panic!("what to do about exit {code}?"));
            format!("| {code} | {} | {} | {advice} |\n", outcome.meaning(), outcome.retry())
        })
        .collect();
    format!("| code | meaning | retry | what to do |\n| --- | --- | --- | --- |\n{}", rows.concat())
}

#[test]
fn its_generated_parts_are_the_codes() {
    let update = std::env::var("UPDATE").is_ok_and(|update| update == "1");
    for (page, name, generate) in PARTS {
        let path = Path::new(ROOT).join(page);
        let mut text = fs::read_to_string(&path).unwrap();
        let (begin, end) = part(&text, name);
        let written = text[begin..end].to_owned();
        let generated = generate(&written);
        if update {
            text.replace_range(begin..end, &generated);
            fs::write(&path, text).unwrap();
            continue;
        }
        let differs = written.lines().zip(generated.lines()).find(|(ours, its)| ours != its);
        assert!(
            written == generated,
            "{page}: its part \"{name}\" is not what the code says; make readme writes it anew.\n\
             the first line that differs (page, code): {differs:#?}"
        );
    }
}

#[test]
fn the_map_of_the_tests_has_every_file() {
    let map = fs::read_to_string(Path::new(ROOT).join("tests/README.md")).unwrap();
    for entry in fs::read_dir(Path::new(ROOT).join("tests")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let named = match entry.file_type().unwrap().is_dir() {
            true => format!("`{name}/`"),
            false => format!("`{name}`"),
        };
        assert!(name == "README.md" || map.contains(&named), "tests/README.md lacks {named}");
    }
}

#[test]
fn every_file_it_names_is_there() {
    for (page, text) in pages().into_iter().chain(beside()) {
        let named = text.split(['`', '(', ')']).filter(|word| {
            let inside = ["tests/", "src/", "examples/"].iter().any(|it| word.starts_with(it));
            inside && word.ends_with(".rs")
        });
        // some are files of the program to copy
        let is_there = |file: &str| {
            ["", "examples/own-app"]
                .iter()
                .any(|part| Path::new(ROOT).join(part).join(file).exists())
        };
        let missing: Vec<_> = named.filter(|file| !is_there(file)).collect();
        assert!(missing.is_empty(), "{} names {missing:?}", page.display());
    }
}
