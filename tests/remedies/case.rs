//! What an operator does who is told a remedy: step by step, on a real server, with the program as a process.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{ClientOptions, ServerApi, ServerApiVersion};
use mongodb::{Client, Database};

use super::apps::{self, METADATA};
use super::support::folder::Folder;
use super::support::{Fresh, Gate, Run, Server, example};

/// The servers on which a remedy is followed.
#[derive(Clone, Copy, PartialEq)]
pub enum On {
    Both,
    ReplicaSet,
    Standalone,
}

/// A step. In texts, `{uri}`, `{database}`, `{DATABASE}`, `{hosts}` and `{folder}` stand for those of the case.
pub enum Do {
    /// Sets a setting; to nothing, unsets it.
    Set(&'static str, &'static str),
    /// Sets every setting as the remedy prints it: each `NAME=value` in it.
    AsPrinted,
    /// A command on the database, by the operator or by something else.
    Command(Document),
    /// The same on the database `admin`.
    Admin(Document),
    /// The program's arguments.
    Arguments(&'static [&'static str]),
    /// What a shell does before it starts the program; nothing, to start it without one.
    Shell(&'static str),
    /// Writes a file.
    File(&'static str, &'static str),
    /// Makes a named pipe, to which nobody writes.
    Pipe(&'static str),
    /// Runs the gate: it ends with this code and tells the remedy.
    Told(i32),
    /// Runs the gate: it ends with this code.
    Run(i32),
}
use Do::Told;

/// A remedy, as it stands in the source, and what somebody does who is told it.
pub struct Case {
    pub remedy: &'static str,
    pub on: On,
    pub steps: Vec<Do>,
}

pub fn case(remedy: &'static str, on: On, steps: impl IntoIterator<Item = Do>) -> Case {
    Case { remedy, on, steps: steps.into_iter().collect() }
}

/// A wrong setting, and the same corrected, on a database that is up to date.
pub fn wrong(
    remedy: &'static str,
    wrong: &[(&'static str, &'static str)],
    right: &[(&'static str, &'static str)],
) -> Case {
    let set = |settings: &[(&'static str, &'static str)]| -> Vec<Do> {
        settings.iter().map(|(name, value)| Do::Set(name, value)).collect()
    };
    let told = [Told(if remedy.ends_with("then run it again") { 20 } else { 16 })];
    let steps = [up_to_date()].into_iter().chain(set(wrong)).chain(told).chain(set(right));
    case(remedy, On::ReplicaSet, steps.chain([Do::Run(0)]))
}

/// The record of a database, with entries such as `upgrade 0.8.0 floor 0.8.0`.
pub fn recorded(version: impl Into<Bson>, history: &[&str]) -> Do {
    let entry = |text: &&str| {
        let words: Vec<&str> = text.split(' ').collect();
        let mut entry = doc! { "version": words[1], "action": words[0] };
        if words.get(2) == Some(&"floor") {
            entry.insert(
                "floor",
                Bson::from(words.get(3).filter(|floor| **floor != "none").copied()),
            );
        }
        entry
    };
    let history: Vec<Document> = history.iter().map(entry).collect();
    let record = doc! { "_id": "scenario_schema_version", "version": version, "history": history };
    insert(METADATA, record)
}

/// A record that says 0.7.0: an upgrade is pending.
pub fn old() -> Do {
    recorded("0.7.0", &["initialise 0.7.0 floor none"])
}

pub fn up_to_date() -> Do {
    recorded("0.8.0", &["initialise 0.8.0 floor 0.8.0"])
}

pub fn insert(collection: &str, document: Document) -> Do {
    Do::Command(doc! { "insert": collection, "documents": [document] })
}

pub fn update(collection: &str, filter: Document, update: Document) -> Do {
    Do::Command(doc! { "update": collection, "updates": [{ "q": filter, "u": update }] })
}

/// Makes every such command of the gate end with this error, from the next run on.
pub fn fault(command: &str, how: Document) -> [Do; 2] {
    let mut data = doc! { "failCommands": [command], "appName": "{database}" };
    data.extend(how);
    let set = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data };
    [Do::Set("GATE_MONGODB_URI", "{uri}&appName={database}"), Do::Admin(set)]
}

pub fn no_fault() -> Do {
    Do::Admin(doc! { "configureFailPoint": "failCommand", "mode": "off" })
}

/// Whether a printed remedy is the one with this text in the source.
pub fn tells(printed: &str, remedy: &str) -> bool {
    let printed = printed.replace(" of GATE_MONGODB_URI", "");
    let mut rest = &*printed;
    let mut fixed =
        remedy.split('{').enumerate().flat_map(|(at, part)| match (at, part.split_once('}')) {
            // a brace of the text itself
            (1.., Some((name, _))) if name.contains(' ') => vec![part],
            (1.., Some((_, after))) => vec![after],
            _ => vec![part],
        });
    fixed.all(|part| match rest.find(part.trim_matches(['{', '}'])) {
        Some(at) => {
            rest = &rest[at + part.trim_matches(['{', '}']).len()..];
            true
        }
        None => false,
    })
}

/// The settings that a remedy prints with their values.
fn printed(next: &str) -> Vec<(String, String)> {
    let words = next.split([' ', ',', ';', '(', ')']).filter(|word| word.starts_with("GATE_"));
    let pairs = words.filter_map(|word| word.trim_end_matches([':', '.']).split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Does what the case says, on a database of its own with two documents of the old shape.
///
/// # Errors
///
/// What is not as the case says.
pub async fn follow(server: &Server, case: &Case) -> Result<(), String> {
    let mut place = Place::new(server).await;
    for step in &case.steps {
        place.step(step, case.remedy).await.map_err(|what| format!("{:?}: {what}", case.remedy))?;
    }
    let open = place.ended.as_ref().is_some_and(|run| run.code == Some(0));
    match place.told && open && matches!(case.steps.last(), Some(Do::Run(_))) {
        true => Ok(()),
        false => Err(format!("{:?} is not followed to an open gate", case.remedy)),
    }
}

/// Where a case takes place.
struct Place {
    database: Fresh,
    admin: Database,
    folder: Folder,
    names: BTreeMap<&'static str, String>,
    gate: Gate,
    /// The last run.
    ended: Option<Run>,
    told: bool,
}

impl Place {
    async fn new(server: &Server) -> Place {
        let database = server.database().await;
        let folder = Folder::new(database.name());
        let names = BTreeMap::from([
            ("{uri}", database.uri.clone()),
            ("{database}", database.name().to_owned()),
            ("{DATABASE}", database.name().to_uppercase()),
            ("{hosts}", server.uri("")),
            ("{folder}", folder.path().display().to_string()),
        ]);
        let documents = [doc! { "_id": 1, "a": 1, "n": 0 }, doc! { "_id": 2, "a": 2, "n": 2 }];
        database.collection("things").insert_many(documents).await.unwrap();
        // it is used while the server takes no clients without
        let mut options = ClientOptions::parse(server.uri("")).await.unwrap();
        options.server_api = Some(ServerApi::builder().version(ServerApiVersion::V1).build());
        let admin = Client::with_options(options).unwrap().database("admin");
        let gate = apps::scenario(&database.uri, "0.8.0", "0.8.0=move_field");
        let gate = gate.unset("GATE_FROM_VERSION");
        Place { database, admin, folder, names, gate, ended: None, told: false }
    }

    fn filled_in(&self, text: &str) -> String {
        let replace = |text: String, (name, value): (&&str, &String)| text.replace(name, value);
        self.names.iter().fold(text.to_owned(), replace)
    }

    async fn step(&mut self, step: &Do, remedy: &str) -> Result<(), String> {
        let gate = self.gate.clone();
        match step {
            Do::Set(name, "") => self.gate = gate.unset(name),
            Do::Set(name, value) => self.gate = gate.set(name, self.filled_in(value)),
            Do::AsPrinted => {
                let settings = printed(&self.next());
                if settings.is_empty() {
                    return Err(format!("no settings are printed: {:?}", self.next()));
                }
                let set = |gate: Gate, (name, value): (String, String)| gate.set(&name, value);
                self.gate = settings.into_iter().fold(gate, set);
            }
            Do::Command(command) => self.run(&self.database, command).await?,
            Do::Admin(command) => self.run(&self.admin, command).await?,
            Do::Arguments(arguments) => {
                let fresh = Gate::new(example("scenario")).with_settings_of(&gate);
                self.gate = arguments.iter().fold(fresh, |gate, argument| gate.arg(argument));
            }
            Do::Shell(script) => {
                let program = example("scenario").display().to_string();
                let shell = Gate::new("/bin/sh").with_settings_of(&gate).arg("-c");
                self.gate = shell.arg(&format!("{script} exec \"$0\"")).arg(&program);
            }
            Do::File(name, text) => {
                fs::write(self.folder.path().join(name), self.filled_in(text)).unwrap();
            }
            Do::Pipe(name) => {
                let made = Command::new("mkfifo").arg(self.folder.path().join(name)).status();
                assert!(made.unwrap().success());
            }
            Do::Told(code) | Do::Run(code) => {
                let run = gate.run().await;
                if run.code != Some(*code) {
                    let said =
                        |field: &str| run.report[field].as_str().unwrap_or_default().to_owned();
                    return Err(format!(
                        "not {code} but {:?}: {}: {}",
                        run.code,
                        said("message"),
                        said("next")
                    ));
                }
                self.ended = Some(run);
                if matches!(step, Do::Told(_)) {
                    self.told = true;
                    if !tells(&self.next(), remedy) {
                        return Err(format!("it is not said: {:?}", self.next()));
                    }
                }
            }
        }
        Ok(())
    }

    /// The remedy of the last run.
    fn next(&self) -> String {
        let next = self.ended.as_ref().and_then(|run| run.report["next"].as_str());
        next.unwrap_or_default().to_owned()
    }

    async fn run(&self, database: &Database, command: &Document) -> Result<(), String> {
        let text = self.filled_in(&serde_json::to_string(command).unwrap());
        let command: Document = serde_json::from_str(&text).unwrap();
        let answer = database.run_command(command).await.map_err(|error| error.to_string())?;
        match answer.contains_key("writeErrors") {
            true => Err(answer.to_string()),
            false => Ok(()),
        }
    }
}
