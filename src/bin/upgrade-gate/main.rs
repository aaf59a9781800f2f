//! The gate of an application whose upgrades are files.

use std::process::ExitCode;

fn main() -> ExitCode {
    upgrade_gate::run_files()
}
