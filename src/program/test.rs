//! `upgrade-gate test`: the tests of a directory of upgrades, each on databases of its own, with runs killed.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use mongodb::bson::Document;
use mongodb::options::ClientOptions;
use mongodb::{Client, Database};
use tokio::time::Instant;

use super::{chosen, tell_without_settings};
use crate::files::cases::Case;
use crate::files::read_with_cases;
use crate::gate::Gate;
use crate::harness::Harness;
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::process::log;
use crate::process::report::{Report, TEST};
use crate::process::settings::Settings;
use crate::process::text::counted;

/// How a run of the tests ended that found nothing wrong.
const PASSED: &str = "passed";

/// How long a test goes on killing runs, and how many of them at most.
const WITHIN: Duration = Duration::from_secs(10);
const BOUNDARIES: usize = 40;
const INSTANTS: usize = 10;

/// The settings that the runs of a test have from the environment.
const PASSED_ON: [&str; 4] =
    ["GATE_BATCH_DOCUMENTS", "GATE_CONNECT_TIMEOUT", "GATE_SKIP_CONDITIONS", "GATE_TIMEOUT"];

/// Runs the tests of a directory.
pub(super) fn test(directory: &Path, program: &str) -> ExitCode {
    let began = Instant::now();
    let (files, cases, mistakes, errors) =
        read_with_cases(directory, chosen("GATE_APP_VERSION").as_deref());
    let mut report = files.named_gate().blank_report();
    report.mode = TEST.to_owned();
    report.mistakes = mistakes;
    let ended = match (errors, files.gate()) {
        (0, Ok(gate)) => all(&gate, &cases),
        (0, Err(failure)) => Err(failure),
        (n, _) => Err(Failure::new(
            Outcome::SettingWrong,
            format!(
                "the files of upgrades and tests are wrong: {}",
                counted(n as u64, "mistake", "mistakes")
            ),
            "correct what is shown, then test again",
        )),
    };
    end(&mut report, ended);
    report.duration_ms = began.elapsed().as_millis() as u64;
    tell_without_settings(&report, program)
}

fn end(report: &mut Report, ended: Result<String, Failure>) {
    match ended {
        Ok(message) => {
            report.end(Outcome::Open, message, None);
            report.outcome = PASSED.to_owned();
        }
        Err(failure) => report.end(failure.outcome, failure.message, Some(failure.next)),
    }
}

fn all(gate: &Gate, cases: &[Case]) -> Result<String, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::bug(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let uri = server(gate).await?;
        let mut failed = vec![];
        for case in cases {
            let began = Instant::now();
            let ended = one(gate, &uri, case).await;
            let told = match &ended {
                Ok(kills) => {
                    format!("passed; {}", counted(*kills as u64, "run killed", "runs killed"))
                }
                Err(why) => format!("FAILED: {why}"),
            };
            // nobody may be reading it
            let (name, took) = (&case.name, began.elapsed());
            let _ = writeln!(std::io::stderr(), "test {name}: {told} ({took:.1?})");
            if let Err(why) = ended {
                failed.push(format!("{name}: {why}"));
            }
        }
        let all = counted(cases.len() as u64, "test", "tests");
        match failed.is_empty() {
            true => Ok(format!("{all} passed")),
            false => Err(Failure::new(
                Outcome::UpgradeFailed,
                format!("{} of {all} failed: {}", failed.len(), failed.join("; also, ")),
                "correct the upgrade, or what the test expects, then test again",
            )),
        }
    })
}

/// Runs one test, and says how many runs were killed.
async fn one(gate: &Gate, uri: &str, case: &Case) -> Result<usize, String> {
    let mut harness = Harness::new(gate.clone(), uri)
        .set("GATE_FROM_VERSION", &case.from)
        .within(WITHIN)
        .boundaries(BOUNDARIES)
        .instants(INSTANTS)
        .quiet();
    for name in PASSED_ON {
        if let Some(value) = chosen(name) {
            harness = harness.set(name, &value);
        }
    }
    for (collection, documents) in &case.after {
        harness = harness.expecting(collection, documents.iter().cloned());
    }
    let fill = async |database: &Database| {
        for (collection, documents) in case.before.iter().filter(|(_, all)| !all.is_empty()) {
            database.collection::<Document>(collection).insert_many(documents).await?;
        }
        Ok(())
    };
    let survived = harness.run(fill).await.map_err(|deviation| deviation.to_string())?;
    Ok(survived.kills)
}

/// The connection string of the server to test on, which must not name a database that is in use.
async fn server(gate: &Gate) -> Result<String, Failure> {
    let code = gate.check()?;
    let connection = ["GATE_MONGODB_URI", "GATE_MONGODB_URI_FILE"];
    let given = connection.into_iter().chain(PASSED_ON).chain(["GATE_LOG", "GATE_LOG_FORMAT"]);
    let given = given.filter_map(|name| Some((name.to_owned(), chosen(name)?)));
    // of its own databases each run names one
    let own = ("GATE_DATABASE".to_owned(), "upgrade_gate_test".to_owned());
    let settings = Settings::from_vars(given.chain([own]), &code)?;
    // the many runs of a test say nothing, unless somebody looks for what goes wrong in them
    if chosen("GATE_LOG").is_some() {
        log::init(&settings.log, settings.log_format);
    }
    let unreachable = |error: mongodb::error::Error| {
        Failure::new(
            Outcome::NoServer,
            format!("the server to test on cannot be used: {}", error.kind),
            "start a MongoDB server for tests, and name it with GATE_MONGODB_URI",
        )
    };
    let uri = settings.uri.expose().to_owned();
    let mut options = ClientOptions::parse(&uri).await.map_err(unreachable)?;
    options.server_selection_timeout = Some(settings.patience());
    let named = options.default_database.clone();
    let client = Client::with_options(options).map_err(unreachable)?;
    let named = named.unwrap_or("upgrade_gate_test".to_owned());
    let collections = client.database(&named).list_collection_names().await.map_err(unreachable)?;
    if !collections.is_empty() {
        return Err(Failure::new(
            Outcome::SettingWrong,
            format!("GATE_MONGODB_URI names the database {named}, which holds collections"),
            "tests make databases of their own and drop them: name a server for tests, and no \
             database, as in mongodb://127.0.0.1:27017/",
        ));
    }
    Ok(uri)
}
