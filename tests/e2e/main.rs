//! Everything together: the real images, chart and Helms on a real Kubernetes with real MongoDB servers.
//! `tests/cluster/run.sh` starts what this needs; its head says how to run it, and parts of it.

// Some helpers wait for the scenario that needs them.
#![allow(dead_code)]

#[path = "../apps/mod.rs"]
mod apps;
mod command;
mod deploy;
mod events;
mod gate;
mod guide;
mod install;
mod lab;
mod quiesce;
mod runner;
#[path = "../support/mod.rs"]
mod support;
mod upgrade;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    runner::run(
        [
            deploy::scenarios(),
            events::scenarios(),
            guide::scenarios(),
            install::scenarios(),
            quiesce::scenarios(),
            upgrade::scenarios(),
        ]
        .concat(),
    )
}
