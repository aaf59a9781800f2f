//! Everything together: the real images, chart and Helms on a real Kubernetes with real MongoDB servers.
//! `tests/cluster/run.sh` starts what this needs; its head says how to run it, and parts of it.

// Some helpers wait for the scenario that needs them.
#![allow(dead_code)]

#[path = "../apps/mod.rs"]
mod apps;
mod command;
mod failing;
mod gate;
mod install;
mod killed;
mod lab;
mod middle;
mod rollback;
mod runner;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod timeout;
mod upgrade;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let scenarios = [
        install::scenarios(),
        upgrade::scenarios(),
        failing::scenarios(),
        server::scenarios(),
        timeout::scenarios(),
        killed::scenarios(),
        rollback::scenarios(),
    ];
    runner::run(scenarios.concat())
}
