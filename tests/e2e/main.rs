//! Everything together: the real images, chart and Helms on a real Kubernetes with real MongoDB servers.
//! `tests/cluster/run.sh` starts what this needs; its head says how to run it, and parts of it.

// Some helpers wait for the scenario that needs them.
#![allow(dead_code)]

#[path = "../apps/mod.rs"]
mod apps;
mod argocd;
mod beside;
mod command;
mod deploy;
mod events;
mod failing;
mod files;
mod gate;
mod gitops;
mod given_back;
mod guide;
mod install;
mod killed;
mod lab;
mod lingering;
mod lost;
mod manual;
mod middle;
mod parents;
mod plain;
mod quiesce;
mod rights;
mod rollback;
mod runner;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod timeout;
mod together;
mod upgrade;
mod values;
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
        quiesce::scenarios(),
        events::scenarios(),
        lingering::scenarios(),
        given_back::scenarios(),
        lost::scenarios(),
        rights::scenarios(),
        deploy::scenarios(),
        guide::scenarios(),
        plain::scenarios(),
        gitops::scenarios(),
        manual::scenarios(),
        beside::scenarios(),
        together::scenarios(),
        values::scenarios(),
        parents::scenarios(),
        files::scenarios(),
    ];
    runner::run(scenarios.concat())
}
