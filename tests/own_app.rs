//! The pages for authors: their code is that of the examples, which run here, and the files to copy fit.

mod support;

#[allow(dead_code)]
#[path = "../examples/tenants.rs"]
mod tenants;
#[allow(dead_code)]
#[path = "../examples/own-app/src/upgrades/mod.rs"]
mod upgrades;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mongodb::Database;
use mongodb::bson::{Document, doc};
use serde_json::Value;
use support::folder::Folder;
use support::guide::commands;
use support::{Server, db_hash, dump};
use upgrade_gate::harness::Harness;
use upgrade_gate::{Gate, Settings};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const OWN_APP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/own-app");

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between fences of these languages on a page.
fn blocks(page: &str, languages: &[&str]) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.trim().strip_prefix("```") else { continue };
        let inside: Vec<_> = lines.by_ref().take_while(|line| line.trim() != "```").collect();
        if languages.contains(&language) {
            blocks.push(inside.join("\n"));
        }
    }
    blocks
}

/// Every file below a folder, without what was built there.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// A text without the indentation of its lines, so that a part of a file can be found again.
fn flush(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).collect()
}

/// The parts of a page's code, which blank lines divide, that are in none of the files.
fn strangers(page: &str, files: &[String]) -> Vec<String> {
    let mut strangers = blocks(page, &["rust", "toml"]);
    strangers.retain(|block| {
        !block.split("\n\n").all(|part| {
            let part = flush(part);
            files.iter().any(|file| flush(file).windows(part.len()).any(|lines| lines == part))
        })
    });
    strangers
}

#[test]
fn the_code_of_the_pages_for_authors_is_that_of_the_examples() {
    let folders = ["examples/own-app", "examples/toolshed"].map(|name| Path::new(ROOT).join(name));
    let paths = folders.iter().flat_map(|folder| files(folder));
    let single = ["examples/other_app.rs", "examples/tenants.rs", "tests/update.rs"]
        .map(|name| Path::new(ROOT).join(name));
    let paths = paths.chain(single);
    let examples: Vec<_> = paths.filter_map(|path| fs::read_to_string(path).ok()).collect();
    for name in ["own-app.md", "writing-upgrades.md"] {
        let page = read(Path::new(ROOT).join("docs").join(name));
        assert_eq!(strangers(&page, &examples), Vec::<String>::new(), "{name}");
        assert!(blocks(&page, &["rust"]).len() > 3, "{name}");
    }
    assert_eq!(strangers("```rust\nfn nowhere() {}\n```\n", &examples).len(), 1);
}

#[test]
fn the_page_shows_every_file_of_the_program_whole() {
    let shown = blocks(&read(format!("{ROOT}/docs/own-app.md")), &["rust", "toml"]);
    for name in
        ["Cargo.toml", "src/lib.rs", "src/main.rs", "src/upgrades/mod.rs", "tests/upgrades.rs"]
    {
        let file = read(format!("{OWN_APP}/{name}"));
        assert!(shown.iter().any(|block| *block == file.trim_end()), "{name}");
    }
}

fn gate() -> Gate {
    Gate::new("my_app", "1.4.0").upgrades(upgrades::all())
}

async fn notes(database: &Database) -> Result<(), mongodb::error::Error> {
    let notes = (0..20).map(|n| doc! { "_id": n, "name": format!("note {n}") });
    database.collection("notes").insert_many(notes).await?;
    Ok(())
}

#[tokio::test]
async fn the_program_to_copy_upgrades_and_survives_kills_on_both_kinds_of_server() {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let harness = Harness::new(gate(), server.uri("")).set("GATE_FROM_VERSION", "1.3.0");
        assert!(harness.run(notes).await.unwrap().kills > 20);

        let database = server.database().await;
        notes(&database).await.unwrap();
        let settings = [("GATE_MONGODB_URI", &*database.uri), ("GATE_FROM_VERSION", "1.3.0")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let code = gate().check().unwrap();
        let report = gate().run(&Settings::from_vars(settings, &code).unwrap()).await;
        assert_eq!(report.exit_code, 0, "{report:?}");
        let expected = (0..20).map(|n| doc! { "_id": n, "title": format!("note {n}") });
        let found = dump(&database).await.remove("notes").unwrap();
        let found = found.iter().map(|note| Document::try_from(note).unwrap());
        assert!(expected.eq(found), "{}", db_hash(&database).await);
    }
}

/// Its manifest asks for what the library has, and its tests for what they need.
#[test]
fn the_manifest_to_copy_fits_the_library() {
    let folder = Folder::new("own-app");
    let copied = folder.path().join("my-app-upgrade");
    std::os::unix::fs::symlink(ROOT, folder.path().join("upgrade-gate")).unwrap();
    let copy = commands("own-app-copy");
    let done = Command::new("sh").args(["-ec", &copy]).current_dir(folder.path()).status().unwrap();
    assert!(done.success());
    // the versions that are here already: nothing is fetched
    fs::copy(format!("{ROOT}/Cargo.lock"), copied.join("Cargo.lock")).unwrap();
    let host = Command::new("rustc").args(["--print", "host-tuple"]).output().unwrap();
    let host = String::from_utf8(host.stdout).unwrap();
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--format-version=1", "--filter-platform", host.trim()])
        .current_dir(&copied)
        .output()
        .unwrap();
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    let metadata: Value = serde_json::from_slice(&cargo.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = |name| packages.iter().find(|package| package["name"] == name).unwrap();
    let (own, library) = (package("my-app-upgrade"), package("upgrade-gate"));
    for field in ["edition", "rust_version"] {
        assert_eq!(own[field], library[field], "{field}");
    }
    assert!(
        commands("own-app-image").contains(&format!(":{} .", own["version"].as_str().unwrap()))
    );
    let names = |package: &Value| -> Vec<String> {
        let targets = package["targets"].as_array().unwrap().iter();
        targets.map(|target| target["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(own), ["my_app_upgrade", "my-app-upgrade", "upgrades"]);
}

/// Without a comment or an empty line.
fn instructions(dockerfile: &str) -> Vec<&str> {
    let lines = dockerfile.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.collect()
}

/// What `make own-app` builds for real.
#[test]
fn the_dockerfile_to_copy_makes_the_same_image_as_the_projects_own() {
    let (copied, own) = (read(format!("{OWN_APP}/Dockerfile")), read(format!("{ROOT}/Dockerfile")));
    // what is in the image; the project's own has another one, for upgrades from files, from the same stages
    let last = |dockerfile: &str| -> Vec<String> {
        let lines = instructions(dockerfile);
        let from = lines.iter().position(|line| line.starts_with("FROM scratch")).unwrap();
        let mut stages: Vec<&[&str]> =
            lines[from..].chunk_by(|_, next| !next.starts_with("FROM")).collect();
        stages.retain(|stage| !stage[0].ends_with(" AS upgrade-gate"));
        let kept = |line: &&&str| {
            ["COPY", "ENV", "USER", "ENTRYPOINT"].contains(&line.split(' ').next().unwrap())
        };
        let lines = stages.iter().flat_map(|stage| stage.iter()).filter(kept);
        let mut lines: Vec<_> =
            lines.map(|line| line.replace("/datalab-upgrade", "/upgrade")).collect();
        lines.sort();
        lines
    };
    assert_eq!(last(&copied), last(&own));
    assert_eq!(instructions(&copied)[0], instructions(&own)[0], "RUST_IMAGE");
    // no name of an application is in it
    assert!(!instructions(&copied).concat().contains("my-app"));
    // what the image needs of the library is not kept from it by the library's own list
    let sent = read(format!("{ROOT}/.dockerignore"));
    for needed in ["!Cargo.toml", "!README.md", "!src"] {
        assert!(sent.lines().any(|line| line == needed), "{needed}");
    }
    assert!(commands("own-app-image").contains("--build-context upgrade-gate="));
}

async fn run_at(database: &support::Fresh, gate: Gate, mode: &str) -> upgrade_gate::Report {
    let vars = [("GATE_MONGODB_URI", &*database.uri), ("GATE_MODE", mode)];
    let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
    gate.run(&Settings::from_vars(vars, &gate.check().unwrap()).unwrap()).await
}

async fn recorded(server: &Server, version: &str, history: Vec<Document>) -> support::Fresh {
    let database = server.database().await;
    let record = doc! { "_id": "clinic_schema_version", "version": version, "history": history };
    database.collection("database_metadata").insert_one(record).await.unwrap();
    for (tenant, n) in [("north", 3), ("south", 5)] {
        let patient = |i: i32| doc! { "_id": i, "visits": (0..i).collect::<Vec<_>>() };
        let patients = database.collection(&format!("patients_{tenant}"));
        patients.insert_many((0..n).map(patient)).await.unwrap();
    }
    database
}

/// What the page says of a table that is built at run time, of `oldest`, of `formerly` and of no steps.
#[tokio::test]
async fn the_example_of_tenants_upgrades_each_and_knows_its_history() {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let gate = || tenants::gate(&["north", "south"]);
        let began = doc! { "version": "2.9.0", "action": "initialise", "floor": "2.9.0" };
        let database = recorded(server, "2.9.0", vec![began.clone()]).await;
        let report = run_at(&database, gate(), "upgrade").await;
        assert_eq!(report.exit_code, 0, "{}", report.to_json());
        let counts = report.upgrades[0].actions.iter().map(|action| action.description.as_str());
        let said =
            ["Count visits of 3 patient(s) of north", "Count visits of 5 patient(s) of south"];
        assert_eq!(counts.collect::<Vec<_>>(), said);
        let south = database.collection::<Document>("patients_south");
        let four = south.find_one(doc! { "_id": 4 }).await.unwrap().unwrap();
        assert_eq!(four.get_i64("visit_count").unwrap(), 4);
        // the upgrade without steps closes the database to the release before
        let older = Gate::new("clinic", "3.1.0");
        assert_eq!(run_at(&database, older, "check").await.exit_code, 12);

        // below the oldest
        let database = recorded(server, "2.8.0", vec![]).await;
        let report = run_at(&database, gate(), "upgrade").await;
        assert_eq!(report.exit_code, 12, "{}", report.to_json());
        assert!(report.next.unwrap_or_default().contains("deploy 2.9.x first"));

        // applied by an earlier release, which described it in other words; and the twin, in words of nobody
        for (words, code) in [("count visits", 10), ("count the beds", 12)] {
            let applied = doc! { "version": "3.0.0", "action": "upgrade", "floor": "3.0.0", "upgrades": [{ "name": words }] };
            let database = recorded(server, "3.0.0", vec![began.clone(), applied]).await;
            let report = run_at(&database, gate(), "check").await;
            assert_eq!(report.exit_code, code, "{words}: {}", report.to_json());
        }
    }
}
