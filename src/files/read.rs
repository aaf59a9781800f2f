//! A directory of files becomes a gate.

use std::collections::HashMap;
use std::path::Path;

use crate::authoring::table::missing_mistake;
use crate::authoring::upgrade::Upgrade;
use crate::files::cases::{Case, cases};
use crate::files::directory::{self, Directory, GATE_FILE, UpgradeName};
use crate::files::gate_file::{self, GateFile};
use crate::files::mistakes::{Mistakes, Source};
use crate::files::reader::Reader;
use crate::files::upgrade_file::{self, Written};
use crate::files::yaml;
use crate::gate::Gate;
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::process::mistake::{Mistake, MistakeLevel};
use crate::version::Version;

/// So many mistakes are named where they have to fit into a message.
const NAMED: usize = 3;

/// What a directory of upgrades was found to be.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Files {
    /// What is wrong with the files, or odd, by file and place; the first hundred of each.
    pub mistakes: Vec<Mistake>,
    /// How many mistakes there are that keep the files from being used.
    pub errors: usize,
    /// How many upgrades were read.
    pub upgrades: usize,
    /// The application's name, as far as that could be read.
    pub app: Option<String>,
    /// The code version, as far as that could be read.
    pub version: Option<String>,
    gate: Option<Gate>,
}

/// Reads the files of a directory, and finds all that is wrong with them without a server.
///
/// `app_version` is the code version where `gate.yaml` names none, as `GATE_APP_VERSION` says it; without either, the
/// files are checked as for the newest upgrade's version, and make no gate.
pub fn read(directory: impl AsRef<Path>, app_version: Option<&str>) -> Files {
    let mut mistakes = Mistakes::default();
    let found = directory::read(directory.as_ref(), &mut mistakes);
    judge(&found, app_version, mistakes)
}

/// Reads the files of a directory and its tests; what is wrong with either, and how much of that keeps both from being
/// used.
pub(crate) fn read_with_cases(
    directory: &Path,
    app_version: Option<&str>,
) -> (Files, Vec<Case>, Vec<Mistake>, usize) {
    let files = read(directory, app_version);
    let mut mistakes = Mistakes::default();
    let cases = cases(directory, &mut mistakes);
    let errors = files.errors + mistakes.errors();
    let all = files.mistakes.iter().cloned().chain(mistakes.into_list()).collect();
    (files, cases, all, errors)
}

/// Finds out what the files say, and what is wrong with them.
pub(super) fn judge(found: &Directory, app_version: Option<&str>, mut mistakes: Mistakes) -> Files {
    let gate_source = Source { name: GATE_FILE, text: found.gate.as_deref().unwrap_or_default() };
    let root = found.gate.as_ref().and_then(|_| yaml::parse(&gate_source, &mut mistakes));
    let gate_file = root.map(|root| {
        let mut reader = Reader::new(gate_source, &mut mistakes, None);
        gate_file::read(&mut reader, &root)
    });
    let gate_file = gate_file.unwrap_or_default();
    let mut written: Vec<(Source<'_>, Written)> = vec![];
    for (name, text) in &found.upgrades {
        let source = Source { name: &name.file, text };
        let Some(root) = yaml::parse(&source, &mut mistakes) else { continue };
        let mut reader = Reader::new(source, &mut mistakes, found.path.as_deref());
        if let Some(upgrade) = upgrade_file::read(&mut reader, &root, name) {
            written.push((source, upgrade));
        }
    }
    // files come by name already
    written.sort_by(|(_, one), (_, other)| one.version.cmp(&other.version));
    same(&found.upgrades, &written, &mut mistakes);
    let declared = gate_file.version.clone();
    let given = app_version.and_then(|text| Version::parse(text).ok());
    let given = given.filter(|_| !gate_file.has_version);
    let code = declared.or(given);
    if let Some(code) = &code {
        above(code, &gate_file, &gate_source, &written, &mut mistakes);
    }
    let newest = written.last().map(|(_, newest)| newest.version.clone());
    let assumed = code.clone().or(newest).or(gate_file.oldest.as_ref().map(|it| it.0.clone()));
    let gate = gate(&gate_file, assumed.map(|it| it.to_string()), &written);
    if let Some(gate) = &gate {
        steps(gate, &written, &mut mistakes);
        if !mistakes.are_errors()
            && let Err(failure) = gate.check()
        {
            mistakes.of_file(GATE_FILE, failure.message, "correct what it names");
        }
    }
    let errors = mistakes.errors();
    Files {
        errors,
        upgrades: written.len(),
        app: gate_file.app,
        version: code.as_ref().map(Version::to_string),
        gate: gate.filter(|_| errors == 0 && code.is_some()),
        mistakes: mistakes.into_list(),
    }
}

impl Files {
    /// A gate without upgrades, for a report on the files: with the name and the version that they say, or "unknown".
    pub(crate) fn named_gate(&self) -> Gate {
        let unknown = || "unknown".to_owned();
        let app = self.app.clone().unwrap_or_else(unknown);
        Gate::new(app, self.version.clone().unwrap_or_else(unknown)).of_files()
    }

    /// The gate of the application.
    ///
    /// # Errors
    ///
    /// [`Outcome::SettingWrong`] for files that hold mistakes, naming the first of them, or that name no version.
    pub fn gate(&self) -> Result<Gate, Failure> {
        if let Some(gate) = &self.gate {
            return Ok(gate.clone());
        }
        if self.errors == 0 {
            return Err(Failure::new(
                Outcome::SettingWrong,
                format!("{GATE_FILE} names no version, and GATE_APP_VERSION is not set to one"),
                format!(
                    "set GATE_APP_VERSION to the version of the application that is about to start, or \
                         write `version:` into {GATE_FILE}"
                ),
            ));
        }
        let wrong = self.mistakes.iter().filter(|it| it.level == MistakeLevel::Error);
        let named: Vec<String> = wrong.take(NAMED).map(Mistake::in_a_line).collect();
        let more = match self.errors.saturating_sub(named.len()) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let next =
            "correct the files; `upgrade-gate validate` shows every mistake, without a server";
        let message = format!("the files of upgrades are wrong: {}{more}", named.join("; also, "));
        Err(Failure::new(Outcome::SettingWrong, message, next))
    }
}

fn gate(file: &GateFile, code: Option<String>, written: &[(Source<'_>, Written)]) -> Option<Gate> {
    let app = file.app.clone()?;
    let upgrades: Vec<Upgrade> =
        written.iter().map(|(_, written)| written.upgrade.clone()).collect();
    let usual = ("database_metadata".to_owned(), format!("{app}_schema_version"));
    let collection = file.collection.clone().unwrap_or(usual.0);
    let id = file.id.clone().unwrap_or(usual.1);
    // without any version nothing can be above it
    let mut gate = Gate::new(app, code.unwrap_or("0.0.0".to_owned())).of_files();
    gate = gate.upgrades(upgrades);
    gate = gate.record(collection, id);
    if let Some((oldest, _)) = &file.oldest {
        gate = gate.oldest(oldest.to_string());
    }
    if let Some((collection, field)) = &file.stamp {
        gate = gate.stamp(collection, field);
    }
    Some(gate)
}

/// Upgrades that are there twice: the history could not tell them apart.
fn same(
    files: &[(UpgradeName, String)],
    written: &[(Source<'_>, Written)],
    mistakes: &mut Mistakes,
) {
    let mut names: HashMap<&str, &str> = HashMap::new();
    for (name, _) in files {
        if let Some(other) = names.insert(&name.stem, &name.file) {
            let message = format!("{other} has the same name");
            mistakes.of_file(&name.file, message, "remove one of the two, or rename it");
        }
    }
    for (at, (source, upgrade)) in written.iter().enumerate() {
        let earlier = written[..at].iter().filter(|(_, other)| other.version == upgrade.version);
        for (other, earlier) in earlier {
            if earlier.content == upgrade.content {
                let message = format!("{} is the same upgrade", other.name);
                mistakes.of_file(source.name, message, "remove one of the two");
            } else if earlier.upgrade.description == upgrade.upgrade.description {
                let message = format!("{} has the same description", other.name);
                let expected = "say what this one does, so that a report tells them apart";
                mistakes.at(source, &upgrade.description_at, message, expected);
            }
        }
    }
}

/// What is above the code version.
fn above(
    code: &Version,
    gate_file: &GateFile,
    gate_source: &Source<'_>,
    written: &[(Source<'_>, Written)],
    mistakes: &mut Mistakes,
) {
    let whose = match gate_file.version {
        Some(_) => "of gate.yaml",
        None => "(GATE_APP_VERSION)",
    };
    for (source, upgrade) in written.iter().filter(|(_, upgrade)| upgrade.version > *code) {
        let message = format!("this is above the code version, {code} {whose}");
        let expected = format!("raise that to {} or later, or remove the upgrade", upgrade.version);
        mistakes.at(source, &upgrade.version_at, message, expected);
    }
    let oldest = gate_file.oldest.as_ref();
    let before = |upgrade: &Written| {
        oldest.filter(|(oldest, _)| oldest <= code && upgrade.version <= *oldest)
    };
    for (source, upgrade) in written {
        if let Some((oldest, _)) = before(upgrade) {
            let message = format!("no database needs this: `oldest` of gate.yaml is {oldest}");
            let expected = "remove the upgrade, or write an earlier version as `oldest`";
            mistakes.warn(source, &upgrade.version_at, message, expected);
        }
    }
    if let Some((oldest, at)) = gate_file.oldest.as_ref().filter(|(oldest, _)| oldest > code) {
        let message = format!("{oldest} is above the code version, {code} {whose}");
        mistakes.at(gate_source, at, message, "it is the oldest version that can be upgraded from: write the code version or an earlier one");
    }
}

/// What is wrong with steps among others.
fn steps(gate: &Gate, written: &[(Source<'_>, Written)], mistakes: &mut Mistakes) {
    for of_version in written.chunk_by(|(_, one), (_, other)| one.version == other.version) {
        let places: Vec<_> = of_version
            .iter()
            .flat_map(|(source, it)| {
                it.upgrade.steps.iter().zip(&it.steps_at).map(move |at| (source, at))
            })
            .collect();
        let mut names: HashMap<String, &str> = HashMap::new();
        for (source, (step, at)) in &places {
            let name = step.name();
            if let Some(mistake) = gate.step_mistake(step) {
                let mistake = mistake.replacen(&format!("\"{name}\""), "the step", 1);
                let expected = "another collection is expected, or another field";
                mistakes.at(source, at, mistake, expected);
            }
            if let Some(other) = names.insert(name.clone(), source.name) {
                let message =
                    format!("another step of this version, in {other}, is named \"{name}\" too");
                mistakes.at(source, at, message, "name them apart");
            }
        }
        if let Some((position, mistake)) =
            missing_mistake(places.iter().map(|(_, (step, _))| *step))
        {
            let (source, (_, at)) = &places[position];
            mistakes.at(source, at, mistake, "");
        }
    }
}
