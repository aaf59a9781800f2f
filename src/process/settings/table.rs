//! The table of settings, from which `--help`, the guide and the known names are made.

use std::path::PathBuf;

use serde::Deserialize;

use super::choices::{Mode, Program, TERMINATION_LOG};
use Fallback::{Value, Words};

/// The setting that names the directory of upgrades, and the directory without it.
pub(crate) const UPGRADES: &str = "GATE_UPGRADES";
pub(crate) const UPGRADES_DIRECTORY: &str = "/upgrades";

/// A setting, as its user sees it.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// What holds when it is not set, or empty.
    pub default: Fallback,
    /// The runs in which it may be set.
    pub scope: Scope,
    /// What it does, in Markdown without line breaks.
    pub meaning: &'static str,
}

/// What holds when a setting is not set.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// This value, read as if it had been set.
    Value(&'static str),
    /// What these words say; nothing when there are none.
    Words(&'static str),
}

/// The runs in which a setting may be set.
#[derive(Clone, Copy, Debug)]
pub enum Scope {
    /// Every run.
    Always,
    /// Runs in one of these modes.
    Only(&'static [Mode]),
    /// Runs in any other mode than these.
    Except(&'static [Mode]),
    /// Runs of the program that reads upgrades from files.
    Files,
}

/// The table, and the texts that are read by it: a field is the setting of its name, and has a text if the
/// table has one.
macro_rules! settings {
    ($($field:ident: $text:ty = $setting:expr,)*) => {
        /// Every setting, in the order in which users meet them.
        pub const SETTINGS: &[Setting] = &[$($setting),*];

        #[derive(Deserialize)]
        #[cfg_attr(test, derive(Default, serde::Serialize))]
        pub(super) struct Raw {
            $(pub(super) $field: $text,)*
        }
    };
}

settings! {
    mongodb_uri: Option<String> = always("GATE_MONGODB_URI", Words("this or the file"),
        "connection string, with the database in its path"),
    mongodb_uri_source: Option<String> = always("GATE_MONGODB_URI_SOURCE", Words(""),
        "where that comes from, for messages, as in `key uri of Secret mongodb`"),
    mongodb_uri_file: Option<String> = always("GATE_MONGODB_URI_FILE", Words(""),
        "file that holds the connection string, for mounted secrets"),
    database: Option<String> = always("GATE_DATABASE", Words("from the URI"),
        "the application's database"),
    mode: String = always("GATE_MODE", Value("upgrade"),
        "`upgrade`: bring the database up to date, then open; `check`: say whether it is open; \
         `wait`: check until it is open; `plan`: list what an upgrade would do; `status`: say \
         what is stored and what `check` would say, and exit 0; `sweep`: upgrade what old code has \
         written since the upgrade; `record`: repair the record; `resume`: where it is open, give \
         stopped workloads their replicas back. `upgrade-gate`, which reads upgrades from files, also \
         has `validate`: say what is wrong in them, without a server. Only `upgrade`, `sweep` and `record` write to the \
         application's data and the record"),
    upgrades: Option<String> = Setting {
        name: UPGRADES,
        default: Words(UPGRADES_DIRECTORY),
        scope: Scope::Files,
        meaning: "the directory of files that hold the upgrades",
    },
    initialise: String = always("GATE_INITIALISE", Value("no"),
        "`fresh`: record the code version in an unrecorded database that holds no documents"),
    from_version: Option<String> = always("GATE_FROM_VERSION", Words(""),
        "the version that an unrecorded, existing database last ran"),
    target_version: Option<String> = only(&[Mode::Upgrade, Mode::Plan], "GATE_TARGET_VERSION",
        Words("the code version"),
        "an earlier version to stop at"),
    app_version: Option<String> = always("GATE_APP_VERSION", Words(""),
        "the version of the application that is about to start; other than the code version it is \
         refused (16). Where `gate.yaml` names no version, it is the code version"),
    skip_conditions: String = always("GATE_SKIP_CONDITIONS", Value("false"),
        "`true`: skip those conditions that declare themselves skippable"),
    timeout: Option<String> = always("GATE_TIMEOUT", Words("5m, none in wait"),
        "how long to wait for the server, the lock and an open gate; never cuts work short. `0s` asks \
         once"),
    connect_timeout: String = always("GATE_CONNECT_TIMEOUT", Value("30s"),
        "how long to wait for a server that can be used"),
    lock_wait: String = always("GATE_LOCK_WAIT", Value("4m"),
        "how long to wait for another run's lock"),
    lock_lease: String = always("GATE_LOCK_LEASE", Value("30s"),
        "how long a lock lives that its holder does not renew; at most `1h`"),
    batch_documents: String = always("GATE_BATCH_DOCUMENTS", Value("2000"),
        "documents changed in one transaction, at most 100000; larger upgrades go in batches, \
        smaller ones of large documents"),
    log: String = always("GATE_LOG", Value("info"),
        "`error`, `warn`, `info`, `debug`, `trace` or `off`; also by module, as in \
         `info,upgrade_gate=debug`"),
    log_format: Option<String> = always("GATE_LOG_FORMAT", Words("json, not on a terminal"),
        "`json` or `text`"),
    report_format: Option<String> = always("GATE_REPORT_FORMAT", Words("text on a terminal, else json"),
        "how the report is written to stdout: `text` for people, `json` for machines"),
    report_file: Option<PathBuf> = always("GATE_REPORT_FILE", Words(TERMINATION_LOG),
        "file for the final report as JSON, cut to 4 KiB where it is longer; stdout has the whole. The \
         default only where it exists"),
    setting_names: Option<String> = always("GATE_SETTING_NAMES", Words(""),
        "how the deployment calls the settings, for messages, separated by commas: with \
         `GATE_FROM_VERSION=gate.fromVersion` they say *gate.fromVersion (GATE_FROM_VERSION)*, and \
         *gate.fromVersion=1.2.3*"),
    record_version: Option<String> = only(&[Mode::Record], "GATE_RECORD_VERSION", Words("required"),
        "the version to record"),
    expect_version: Option<String> = only(&[Mode::Record], "GATE_EXPECT_VERSION", Words("required"),
        "the stored value that it replaces, as text"),
    discard_journal: Option<String> = only(&[Mode::Record], "GATE_DISCARD_JOURNAL", Words(""),
        "id of the unfinished upgrade to give up, as exits 12 and 14 print it"),
    events: String = always("GATE_EVENTS", Value("false"),
        "`true`: tell the gate's Kubernetes Job, or else its pod, by Events how the run goes"),
    quiesce: Option<String> = except(&[Mode::Sweep], "GATE_QUIESCE", Words("off"),
        "workloads of the gate's namespace to stop while upgrades are applied, as in \
         `deployment/web,statefulset/worker`; `resume` gives their replicas back"),
    quiesce_timeout: String = always("GATE_QUIESCE_TIMEOUT", Value("2m"),
        "how long to wait for their pods to stop, and after `resume` for pods to be ready; at most \
         `1h`"),
    resume: String = always("GATE_RESUME", Value("false"),
        "`true`: a run that opens the gate gives the replicas back at its end, as mode `resume` does; \
         for runs that no release follows"),
    namespace: Option<String> = always("GATE_NAMESPACE", Words("the service account's"),
        "the gate's own namespace: `metadata.namespace` of the downward API"),
    pod_name: Option<String> = always("GATE_POD_NAME", Words("the host's name"),
        "the gate's own pod: `metadata.name`"),
    pod_uid: Option<String> = always("GATE_POD_UID", Words(""),
        "and its `metadata.uid`"),
    job_name: Option<String> = always("GATE_JOB_NAME", Words(""),
        "the Job that Events are for, where there is one: the pod's label \
         `batch.kubernetes.io/job-name`"),
    job_uid: Option<String> = always("GATE_JOB_UID", Words(""),
        "and its UID: the pod's label `batch.kubernetes.io/controller-uid`"),
}

const fn always(name: &'static str, default: Fallback, meaning: &'static str) -> Setting {
    Setting { name, default, scope: Scope::Always, meaning }
}

const fn except(
    modes: &'static [Mode],
    name: &'static str,
    default: Fallback,
    meaning: &'static str,
) -> Setting {
    Setting { name, default, scope: Scope::Except(modes), meaning }
}

const fn only(
    modes: &'static [Mode],
    name: &'static str,
    default: Fallback,
    meaning: &'static str,
) -> Setting {
    Setting { name, default, scope: Scope::Only(modes), meaning }
}

impl Setting {
    /// Whether a program has it.
    pub(super) fn is_of(&self, program: Program) -> bool {
        !matches!((self.scope, program), (Scope::Files, Program::Compiled))
    }

    /// The meaning together with the scope.
    pub(super) fn description(&self) -> String {
        match self.scope {
            Scope::Always => self.meaning.into(),
            Scope::Only(modes) => format!("{} ({} only)", self.meaning, in_modes(modes)),
            Scope::Except(modes) => format!("{} (not in {})", self.meaning, in_modes(modes)),
            Scope::Files => format!("{} (`upgrade-gate` only)", self.meaning),
        }
    }
}

/// `mode record`, or `modes upgrade and plan`.
pub(super) fn in_modes(modes: &[Mode]) -> String {
    let words: Vec<_> = modes.iter().map(Mode::to_string).collect();
    format!("mode{} {}", if modes.len() == 1 { "" } else { "s" }, words.join(" and "))
}

/// The settings as a Markdown table, for the guide.
/// How alike two words are, of 1, that one may be a slip of the other.
const LIKE: f64 = 0.6;

/// The word of which `text` may be a slip.
pub(crate) fn slip_of<'a>(text: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    nearest(text, words).filter(|(_, likeness)| *likeness >= LIKE).map(|(word, _)| word)
}

#[cfg(test)]
pub(crate) fn markdown_table() -> String {
    let mut table = String::from("| setting | default | meaning |\n| --- | --- | --- |\n");
    for setting in SETTINGS {
        let default = match setting.default {
            Value(value) => format!("`{value}`"),
            Words(words) => words.into(),
        };
        let description = setting.description();
        table += &format!("| `{}` | {default} | {description} |\n", setting.name);
    }
    table
}

/// The word most like `text`, whatever their case.
///
/// Slips of the finger show in the edit distance, left-out words in the pairs of letters.
pub(super) fn nearest<'a>(
    text: &str,
    words: impl IntoIterator<Item = &'a str>,
) -> Option<(&'a str, f64)> {
    let text = text.to_ascii_lowercase();
    let likeness = |word: &str| {
        let word = word.to_ascii_lowercase();
        let typed = strsim::normalized_damerau_levenshtein(&text, &word);
        typed.max(strsim::sorensen_dice(&text, &word))
    };
    words
        .into_iter()
        .map(|word| (word, likeness(word)))
        .max_by(|(_, one), (_, other)| one.total_cmp(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_or_a_missing_word_finds_its_name() {
        let nearest_to = |text| nearest(text, SETTINGS.iter().map(|s| &s.name[5..])).unwrap().0;
        for (slip, name) in [
            ("INITIALIZE", "INITIALISE"),
            ("MOED", "MODE"),
            ("mode", "MODE"),
            ("URI", "MONGODB_URI"),
            ("MONGO_URL", "MONGODB_URI"),
            ("QUIESE", "QUIESCE"),
            ("TIMEOUTS", "TIMEOUT"),
        ] {
            assert_eq!(nearest_to(slip), name, "{slip}");
        }
    }

    #[test]
    fn the_markdown_table_has_one_well_formed_row_a_setting() {
        let table = markdown_table();
        assert_eq!(table.lines().count(), SETTINGS.len() + 2);
        for (row, setting) in table.lines().skip(2).zip(SETTINGS) {
            assert!(row.starts_with(&format!("| `{}` |", setting.name)), "{row}");
            assert_eq!(row.matches('|').count(), 4, "{row}");
        }
        assert!(table.contains("(mode record only)"));
    }
}
