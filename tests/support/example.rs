//! Programs of the examples, built when a test first needs one: `cargo test --test NAME` builds none of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// The program of an example, built as the test is.
pub fn example(name: &'static str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    built.entry(name).or_insert_with(|| build(name)).clone()
}

fn build(name: &str) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    // of what cargo tells a test, nothing may look like a change to a build script
    for (variable, _) in std::env::vars_os() {
        let text = variable.to_string_lossy();
        if ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|own| text.starts_with(own)) {
            cargo.env_remove(&variable);
        }
    }
    // what the test was built from is there already
    cargo.args(["build", "--locked", "--offline", "--quiet", "--message-format=json"]);
    cargo.args(["--example", name, "--profile", &profile()]);
    if !cfg!(feature = "kubernetes") {
        cargo.arg("--no-default-features");
    }
    let cargo = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit());
    let done = cargo.output().expect("cargo runs");
    assert!(done.status.success(), "cargo could not build the example {name}");
    let messages = String::from_utf8(done.stdout).expect("JSON");
    let messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    let program = messages
        .filter(|message: &serde_json::Value| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    program.unwrap_or_else(|| panic!("cargo does not say where it put {name}"))
}

/// The profile of the running test, by the folder that cargo put it in: `target/PROFILE/deps/TEST`.
fn profile() -> String {
    let test = std::env::current_exe().expect("the test has a path");
    match test.ancestors().nth(2).and_then(|folder| folder.file_name()?.to_str()) {
        Some("debug") | None => "dev".to_owned(),
        Some(profile) => profile.to_owned(),
    }
}
