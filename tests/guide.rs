//! The guide: its commands, run as they stand there, and what of it is the code's.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mongodb::Database;
use mongodb::bson::{Document, doc};
use serde_json::Value;
use support::guide::{URI, beside, blocks, commands, pages};
use support::{Server, db_hash, dump, fixture};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Commands of the guide, run in bash by an operator who has the program.
struct Operator {
    uri: String,
}

struct Ran {
    code: Option<i32>,
    report: Value,
    all: String,
}

impl Operator {
    async fn new(database: &Database, server: &Server) -> Operator {
        fixture::load(database).await;
        Operator { uri: server.uri(database.name()) }
    }

    fn run(&self, commands: &str) -> Ran {
        let gate = Path::new(env!("CARGO_BIN_EXE_datalab-upgrade"));
        let done = Command::new("bash")
            .args(["-ec", &commands.replace(URI, &self.uri)])
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", gate.parent().unwrap().display()))
            .env("GATE_MONGODB_URI", &self.uri)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(done.stdout), text(done.stderr));
        let last = stdout.lines().last().unwrap_or_default();
        let report = serde_json::from_str(last).unwrap_or_default();
        Ran { code: done.status.code(), report, all: format!("{stdout}{stderr}") }
    }

    #[track_caller]
    fn runs(&self, name: &str, code: i32) -> Value {
        let ran = self.run(&commands(name));
        assert_eq!(ran.code, Some(code), "{name}: {}", ran.all);
        ran.report
    }
}

#[tokio::test]
async fn an_existing_database_is_asked_planned_and_upgraded() {
    let server = Server::shared().await;
    let database = server.database().await;
    let operator = Operator::new(&database, server).await;
    let untouched = db_hash(&database).await;

    let asked = operator.runs("by-hand-ask", 11);
    assert!(asked["next"].as_str().unwrap().contains("GATE_FROM_VERSION"), "{asked}");
    let planned = operator.runs("by-hand-plan", 10);
    assert_eq!(planned["remaining"][0], "0.8.0", "{planned}");
    // what the page shows of it
    let page = fs::read_to_string(Path::new(ROOT).join("docs/install.md")).unwrap();
    for action in planned["upgrades"][0]["actions"].as_array().unwrap() {
        assert!(page.contains(action["description"].as_str().unwrap()), "{action}");
    }
    operator.runs("by-hand-check", 11);
    assert_eq!(db_hash(&database).await, untouched);

    let upgraded = operator.runs("by-hand-upgrade", 0);
    assert_eq!(upgraded["mode"], "check", "{upgraded}");
    assert_eq!(operator.runs("by-hand-plan-recorded", 0)["outcome"], "open");
    operator.runs("by-hand-check", 0);
    assert_eq!(operator.runs("status", 0)["status"]["recorded"], "0.8.0");
    assert_eq!(operator.runs("sweep", 0)["swept"], 0);
    operator.runs("record", 10);
    // the stored value is another one now
    operator.runs("record", 16);
}

/// The texts between backticks.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[tokio::test]
async fn the_page_for_when_something_goes_wrong_has_the_programs_words() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/exit-codes.md")).unwrap();
    let file = |name: &str| fs::read_to_string(Path::new(ROOT).join(name)).unwrap();
    let (settings, values) = (file("docs/settings.md"), file("charts/upgrade-gate/README.md"));
    let own =
        ["hooks.", "image.", "serviceAccount.", "nodeSelector", "tolerations", "extraVolumes"];
    for text in quoted(&page) {
        for name in text.split(|c: char| !c.is_ascii_uppercase() && c != '_') {
            let known = !name.starts_with("GATE_") || settings.contains(&format!("`{name}`"));
            assert!(known, "{name} is not a setting");
        }
        let known =
            !own.iter().any(|own| text.starts_with(own)) || values.contains(&format!("`{text}`"));
        assert!(known, "{text} is not a value of the chart");
    }

    // what the terminal shows, and what a log's last line has
    let server = Server::shared().await;
    let database = server.database().await;
    let operator = Operator::new(&database, server).await;
    let closed = operator.run("GATE_REPORT_FORMAT=text GATE_LOG_FORMAT=json datalab-upgrade");
    assert_eq!(closed.code, Some(11), "{}", closed.all);
    assert!(page.contains("`closed (exit 13, condition_failed): …`") && page.contains("`next: …`"));
    assert!(closed.all.contains("closed (exit 11, unrecorded): "), "{}", closed.all);
    assert!(closed.all.contains("\nnext: "), "{}", closed.all);
    let last = closed.all.lines().rfind(|line| line.starts_with('{')).unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    for field in ["reason", "next"] {
        assert!(page.contains(&format!("`{field}`")) && last[field].is_string(), "{last}");
    }
    let untouched = db_hash(&database).await;
    let status = operator.runs("status", 0);
    assert_eq!(status["mode"], "status", "{status}");
    assert_eq!(db_hash(&database).await, untouched);
}

/// Stands in for `mongodump` and `mongorestore --drop`, of all collections or of all but one.
async fn restore(database: &Database, backup: &Backup, but: Option<&str>) {
    for (name, documents) in backup {
        if Some(name.as_str()) != but {
            database.collection::<Document>(name).drop().await.unwrap();
            let documents = documents.iter().map(|document| document.try_into().unwrap());
            let documents: Vec<Document> = documents.collect();
            database.collection(name).insert_many(documents).await.unwrap();
        }
    }
}

type Backup = BTreeMap<String, Vec<mongodb::bson::RawDocumentBuf>>;

/// Why a backup without its record is no backup: the gate then opens for documents of the old shape.
#[tokio::test]
async fn a_backup_brings_the_record_back_with_the_documents() {
    let server = Server::shared().await;
    let database = server.database().await;
    let operator = Operator::new(&database, server).await;
    let record = doc! { "_id": "datalab_schema_version", "version": "0.7.5", "history": [] };
    database.collection("database_metadata").insert_one(record).await.unwrap();
    let backup = dump(&database).await;
    operator.runs("by-hand-plan-recorded", 10);
    operator.runs("by-hand-upgrade", 0);

    restore(&database, &backup, None).await;
    let planned = operator.runs("by-hand-plan-recorded", 10);
    assert_eq!(planned["remaining"][0], "0.8.0");

    operator.runs("by-hand-upgrade", 0);
    restore(&database, &backup, Some("database_metadata")).await;
    assert_eq!(operator.runs("by-hand-plan-recorded", 0)["outcome"], "open");
}

/// Every file of tests, with its contents.
fn tests(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let text = |path: PathBuf| match path.extension() {
        _ if path.is_dir() => tests(&path),
        Some(rs) if rs == "rs" => fs::read_to_string(path).unwrap(),
        _ => String::new(),
    };
    entries.map(text).collect()
}

#[test]
fn every_command_is_run_by_a_test() {
    let tests = tests(&Path::new(ROOT).join("tests"));
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for (path, page) in pages() {
        let path = path.display();
        for (name, block) in blocks(&page) {
            let name = name.unwrap_or_else(|| panic!("{path}: nobody runs this:\n{block}"));
            // as they are called for: `commands("plan")`, `tested("plan")`, `runs("plan", 10)`
            let calls = ["commands", "tested", "runs"];
            let run = calls.iter().any(|call| tests.contains(&format!("{call}(\"{name}\"")));
            let here = ["try", "develop"].contains(&name.as_str());
            assert!(run || here, "{path}: no test runs the commands {name}");
            let same = known.entry(name.clone()).or_insert_with(|| block.clone());
            assert_eq!(*same, block, "{path}: two blocks are called {name}");
        }
    }
    assert!(known.len() > 10, "{known:?}");

    let unnamed = "<!-- commands: plan -->\nNot just before it.\n```sh\nplan\n```\n";
    assert_eq!(blocks(unnamed), [(None, "plan\n".to_owned())]);
}

#[test]
fn the_front_pages_commands_are_there() {
    let makefile = fs::read_to_string(Path::new(ROOT).join("Makefile")).unwrap();
    for name in ["try", "develop"] {
        for line in commands(name).lines() {
            let command = line.split('#').next().unwrap().trim();
            match command.strip_prefix("make ") {
                Some(target) => assert!(makefile.contains(&format!("\n{target}:")), "{command}"),
                None => assert!(Path::new(ROOT).join(command).exists(), "{command}"),
            }
        }
    }
}

/// As code hosts make it of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// Links to files that are not there, or to headings that those do not have.
fn broken_links(path: &Path, page: &str) -> Vec<String> {
    let links = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let broken = links.filter(|link| !link.contains("://")).filter(|link| {
        let (file, heading) = link.split_once('#').unwrap_or((link, ""));
        let target = match file {
            "" => path.to_owned(),
            file => path.parent().unwrap().join(file),
        };
        if heading.is_empty() {
            return !target.exists();
        }
        let text = fs::read_to_string(target).unwrap_or_default();
        let mut headings = text.lines().filter_map(|line| line.strip_prefix('#'));
        !headings.any(|line| anchor(line.trim_start_matches('#').trim()) == heading)
    });
    broken.map(str::to_owned).collect()
}

#[test]
fn every_link_leads_somewhere() {
    for (path, page) in pages().into_iter().chain(beside()) {
        assert_eq!(broken_links(&path, &page), Vec::<String>::new(), "{}", path.display());
    }
    let page = Path::new(ROOT).join("docs/install.md");
    assert_eq!(broken_links(&page, "[a](nowhere.md) [b](cluster.md#nothing)").len(), 2);
}

/// The names of the guide's pages in a text, as in `docs/mongodb.md`.
fn named_pages(text: &str) -> Vec<&str> {
    let names = text.split("docs/").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"-_./".contains(c));
        let name = &rest[..end.unwrap_or(rest.len())];
        Some(&name[..name.find(".md")? + 3])
    });
    names.collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn every_page_that_code_and_manifests_name_is_there() {
    let mut named = 0;
    for folder in ["deploy", "charts", "src"] {
        for path in files(&Path::new(ROOT).join(folder)) {
            for name in named_pages(&fs::read_to_string(&path).unwrap()) {
                let page = Path::new(ROOT).join("docs").join(name);
                assert!(page.exists(), "{}: docs/{name} is not there", path.display());
                named += 1;
            }
        }
    }
    assert!(named > 5, "{named}");
    assert_eq!(named_pages("see docs/no-where.md. Or docs/, docs/a.md"), ["no-where.md", "a.md"]);
}

/// The chart's lines in the guide are those of the application that the end-to-end tests install.
#[test]
fn the_lines_for_a_chart_are_those_of_a_chart_that_works() {
    let lab = Path::new(ROOT).join("tests/e2e/lab");
    let page = fs::read_to_string(Path::new(ROOT).join("docs/own-app.md")).unwrap();
    let shown: Vec<&str> = page.split("```yaml\n").skip(1).collect();
    let lines = |text: &str| -> Vec<String> {
        let lines = text.split("```").next().unwrap().lines().map(|line| line.trim().to_owned());
        lines
            .filter(|line| !line.starts_with("version:") && !line.starts_with("repository:"))
            .collect()
    };
    let chart = fs::read_to_string(lab.join("Chart.yaml")).unwrap();
    let templates = tests_of_chart(&lab.join("templates"));
    for (text, all) in [(shown[0], lines(&chart)), (shown[2], lines(&templates))] {
        let missing: Vec<_> = lines(text).into_iter().filter(|line| !all.contains(line)).collect();
        assert_eq!(missing, Vec::<String>::new());
    }
}

fn tests_of_chart(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// What the init container `backup` of the guide's values runs.
fn backup_script() -> String {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/helm.md")).unwrap();
    let (_, block) = page.split_once("<!-- chart: backup -->\n```yaml\n").unwrap();
    let values: Value = serde_norway::from_str(block.split_once("```").unwrap().0).unwrap();
    let containers = values["gate"]["hooks"]["initContainers"].as_str().unwrap();
    let containers: Value = serde_norway::from_str(containers).unwrap();
    assert_eq!(containers[0]["command"], serde_json::json!(["sh", "-ec"]));
    containers[0]["args"][0].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_backup_is_made_only_where_something_is_pending() {
    let server = Server::shared().await;
    let database = server.database().await;
    let operator = Operator::new(&database, server).await;
    let folder = support::folder::Folder::new("backup");
    let at = folder.path().display().to_string();
    let script = backup_script().replace("/gate-status", &at);
    // stands in for mongodump
    let dump = |ending: &str| {
        let program = format!("#!/bin/sh\necho \"$@\" >>{at}/dumps\n{ending}\n");
        folder.write("bin/mongodump", &program);
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path().join("bin/mongodump"), executable).unwrap();
    };
    let backup = || {
        let report = format!("{at}/report.json");
        let status = format!(
            "GATE_MODE=status GATE_FROM_VERSION=0.7.5 GATE_REPORT_FILE={report} datalab-upgrade"
        );
        assert_eq!(operator.run(&status).code, Some(0));
        let mut sh = Command::new("sh");
        sh.args(["-ec", &script]).env("PATH", format!("{at}/bin:/usr/bin:/bin"));
        sh.env("BACKUP_URI", "mongodb://backup/").output().unwrap()
    };
    let dumps =
        || fs::read_to_string(folder.path().join("dumps")).unwrap_or_default().lines().count();

    dump("exit 1");
    assert!(!backup().status.success(), "a backup that fails keeps the upgrade from running");
    dump("");
    assert!(backup().status.success());
    assert_eq!(dumps(), 2);
    operator.runs("by-hand-upgrade", 0);
    let nothing = backup();
    assert!(nothing.status.success());
    assert!(String::from_utf8(nothing.stdout).unwrap().contains("nothing is pending"));
    assert_eq!(dumps(), 2);
}
