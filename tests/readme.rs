//! The README says what the code says: its generated parts, the files it names, and its least role.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use support::{Gate, Server, db_hash, fixture};
use upgrade_gate::{Outcome, markdown_table};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const EXIT_CODES: &str = "exit codes";

fn readme() -> String {
    fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap()
}

/// Where the generated part `name` begins and ends: after the comment that opens it, and before the
/// comment that ends it.
fn part(readme: &str, name: &str) -> (usize, usize) {
    let (opening, closing) = (format!("<!-- {name}: "), format!("<!-- end of {name} -->"));
    let found = readme.find(&opening).and_then(|at| {
        let begin = at + readme[at..].find("-->\n")? + "-->\n".len();
        Some((begin, begin + readme[begin..].find(&closing)?))
    });
    found.unwrap_or_else(|| panic!("README.md has no {opening}… --> or no {closing}"))
}

/// The example without its first line, which says what file it is.
fn other_app() -> String {
    let code = fs::read_to_string(Path::new(ROOT).join("examples/other_app.rs")).unwrap();
    let (_, code) = code.split_once("\n\n").unwrap();
    format!("```rust,no_run\n{code}```\n")
}

/// The table of exit codes, with the advice that the README gives for each.
fn exit_codes(written: &str) -> String {
    let advice: BTreeMap<&str, &str> = written
        .lines()
        .filter_map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            Some((*cells.first()?, *cells.get(3)?))
        })
        .collect();
    let rows = Outcome::ALL.map(|outcome| {
        let code = outcome.code().to_string();
        let retry = if outcome.retry_can_help() { "yes" } else { "no" };
        let advice = advice.get(code.as_str()).filter(|advice| !advice.is_empty());
        let advice = advice.unwrap_or_else(|| panic!("README.md: what to do about exit {code}?"));
        format!("| {code} | {} | {retry} | {advice} |\n", outcome.meaning())
    });
    format!("| code | meaning | retry | what to do |\n| --- | --- | --- | --- |\n{}", rows.concat())
}

#[test]
fn its_generated_parts_are_the_codes() {
    let update = std::env::var("UPDATE").is_ok_and(|update| update == "1");
    let mut text = readme();
    for name in ["settings", EXIT_CODES, "other_app"] {
        let (begin, end) = part(&text, name);
        let written = text[begin..end].to_owned();
        let generated = match name {
            "settings" => markdown_table(),
            EXIT_CODES => exit_codes(&written),
            _ => other_app(),
        };
        if update {
            text.replace_range(begin..end, &generated);
            continue;
        }
        let differs = written.lines().zip(generated.lines()).find(|(ours, its)| ours != its);
        assert!(
            written == generated,
            "README.md: its part \"{name}\" is not what the code says; make readme writes it anew.\n\
             the first line that differs (README.md, code): {differs:#?}"
        );
    }
    if update {
        fs::write(Path::new(ROOT).join("README.md"), text).unwrap();
    }
}

#[test]
fn every_file_it_names_is_there() {
    let text = readme();
    let named = text.split(['`', '(', ')']).filter(|word| {
        let inside = ["tests/", "src/", "examples/"].iter().any(|folder| word.starts_with(folder));
        inside && word.ends_with(".rs")
    });
    let missing: Vec<&str> = named.filter(|path| !Path::new(ROOT).join(path).exists()).collect();
    assert!(missing.is_empty(), "README.md names files that are not there: {missing:?}");
}

#[derive(Deserialize)]
struct Role {
    privileges: Vec<Privilege>,
}

#[derive(Deserialize)]
struct Privilege {
    resource: Document,
    actions: Vec<String>,
}

/// The argument, from `open` to `close`, of the call in the code that follows `<!-- name -->`.
fn argument<T: DeserializeOwned>(name: &str, open: char, close: char) -> T {
    let text = readme();
    let (_, after) = text.split_once(&format!("<!-- {name} -->\n```js\n")).unwrap();
    let (code, _) = after.split_once("```").unwrap();
    serde_json::from_str(&code[code.find(open).unwrap()..=code.rfind(close).unwrap()]).unwrap()
}

/// What the README grants, one action on one resource after the other.
fn granted(privileges: Vec<Privilege>) -> Vec<(String, Document)> {
    let each = privileges.into_iter().flat_map(|Privilege { resource, actions }| {
        actions.into_iter().map(move |action| (action, resource.clone()))
    });
    each.collect()
}

fn least_role() -> Vec<(String, Document)> {
    granted(argument::<Role>("role", '{', '}').privileges)
}

/// The gate as a new user with exactly these privileges.
async fn gate_with(server: &Server, granted: &[(String, Document)]) -> Gate {
    let database = server.client().await.database("datalabvue");
    let role = ObjectId::new().to_hex();
    let privilege = |(action, resource): &(String, Document)| {
        doc! { "resource": resource.clone(), "actions": [action] }
    };
    let privileges: Vec<Document> = granted.iter().map(privilege).collect();
    let create = doc! { "createRole": &role, "privileges": privileges, "roles": [] };
    database.run_command(create).await.unwrap();
    let uri = server.uri_with_roles("datalabvue", &[&role]).await;
    Gate::new(env!("CARGO_BIN_EXE_datalab-upgrade")).uri(&uri)
}

#[tokio::test]
async fn its_least_role_is_enough_and_none_of_it_can_be_spared() {
    let server = Server::with_auth().await;
    let role = least_role();
    let database = server.client().await.database("datalabvue");
    fixture::load(&database).await;
    let untouched = db_hash(&database).await;
    for spared in 0..role.len() {
        let mut granted = role.clone();
        let (action, resource) = granted.remove(spared);
        let run = gate_with(&server, &granted).await.set("GATE_FROM_VERSION", "0.6.0").run().await;
        assert_eq!(run.code, Some(17), "without {action} on {resource}: {run}");
        assert_eq!(db_hash(&database).await, untouched, "without {action} on {resource}");
    }
    let gate = gate_with(&server, &role).await.set("GATE_FROM_VERSION", "0.6.0");
    for (mode, code) in [("check", 10), ("plan", 10), ("upgrade", 0), ("check", 0)] {
        let run = gate.clone().mode(mode).run().await;
        assert_eq!(run.code, Some(code), "{mode}: {run}");
    }
    let run = gate_with(&server, &role[..1]).await.mode("check").run().await;
    assert_eq!(run.code, Some(0), "{run}");
}

#[tokio::test]
async fn a_fresh_database_needs_what_it_says_besides() {
    let server = Server::with_auth().await;
    let fresh = async |gate: Gate| gate.set("GATE_INITIALISE", "fresh").run().await;
    let run = fresh(gate_with(&server, &least_role()).await).await;
    assert_eq!(run.code, Some(17), "{run}");
    let both = [least_role(), granted(argument("role for fresh", '[', ']'))].concat();
    let run = fresh(gate_with(&server, &both).await).await;
    assert_eq!(run.code, Some(0), "{run}");
}
