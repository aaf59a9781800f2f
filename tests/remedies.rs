//! Every remedy that the program prints, followed: somebody is told it, does what it says, and the gate opens.
//!
//! The remedies are read from the sources. A text that no table here has, or that a table has and the sources do
//! not, fails [`every_remedy_is_followed`].

mod apps;
mod support;

#[path = "remedies/authors.rs"]
mod authors;
#[path = "remedies/case.rs"]
mod case;
#[path = "remedies/elsewhere.rs"]
mod elsewhere;
#[path = "remedies/faults.rs"]
mod faults;
#[path = "remedies/inventory.rs"]
mod inventory;
#[path = "remedies/servers.rs"]
mod servers;
#[path = "remedies/settings.rs"]
mod settings;
#[path = "remedies/states.rs"]
mod states;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use case::{Case, On, follow};
use elsewhere::{ELSEWHERE, NOWHERE, PARTS};
use futures_util::{StreamExt, stream};
use support::Server;

/// Follows all cases for such a server, several at a time.
async fn follow_all(server: &Server, on: On, at_a_time: usize, cases: Vec<Case>) {
    let cases = cases.iter().filter(|case| case.on == On::Both || case.on == on);
    let followed = cases.map(|case| follow(server, case));
    let ended: Vec<_> = stream::iter(followed).buffer_unordered(at_a_time).collect().await;
    let missed: Vec<String> = ended.into_iter().filter_map(Result::err).collect();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_corrected_as_the_gate_says() {
    follow_all(Server::shared().await, On::ReplicaSet, 3, settings::cases()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_are_corrected_as_the_gate_says_on_a_replica_set() {
    follow_all(Server::shared().await, On::ReplicaSet, 3, states::cases()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_are_corrected_as_the_gate_says_on_a_standalone() {
    follow_all(&Server::standalone().await, On::Standalone, 3, states::cases()).await;
}

/// A server has one fault at a time.
#[tokio::test]
async fn faults_of_a_server_pass_or_are_corrected_as_the_gate_says() {
    follow_all(&Server::replica_set().await, On::ReplicaSet, 1, faults::cases()).await;
}

/// What a beginning stands for: the text itself, or else the one that begins so.
fn meant<'a>(beginning: &str, remedies: &'a BTreeMap<String, String>) -> Vec<&'a str> {
    match remedies.get_key_value(beginning) {
        Some((text, _)) => vec![text],
        None => {
            remedies.keys().map(String::as_str).filter(|text| text.starts_with(beginning)).collect()
        }
    }
}

/// As many remedies as are followed, and the same.
#[test]
fn every_remedy_is_followed() {
    let remedies = inventory::remedies();
    let tables = [settings::cases(), states::cases(), faults::cases()].into_iter().flatten();
    let mut followed: BTreeSet<String> = tables.map(|case| case.remedy.to_owned()).collect();
    followed.extend(servers::FOLLOWED.iter().map(|text| (*text).to_owned()));
    followed.extend(authors::followed().into_iter().map(str::to_owned));
    let here = followed.len();

    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (beginning, file, test) in ELSEWHERE {
        let text = fs::read_to_string(tests.join(file)).unwrap();
        assert!(text.contains(&format!("async fn {test}(")), "{file} has no test {test}");
        let meant = meant(beginning, &remedies);
        assert!(meant.len() == 1, "{beginning:?} stands for {meant:?}");
        assert!(followed.insert(meant[0].to_owned()), "{beginning:?} is followed twice");
    }
    let others = NOWHERE.iter().map(|(beginning, _)| *beginning).chain(PARTS.iter().copied());
    for beginning in others {
        let meant = meant(beginning, &remedies);
        assert!(meant.len() == 1, "{beginning:?} stands for {meant:?}");
        assert!(followed.insert(meant[0].to_owned()), "{beginning:?} is followed as well");
    }
    let known: BTreeSet<String> = remedies.keys().cloned().collect();
    let missing: Vec<_> = known.difference(&followed).map(|text| (&remedies[text], text)).collect();
    assert!(missing.is_empty(), "no test follows these remedies: {missing:#?}");
    let gone: Vec<_> = followed.difference(&known).collect();
    assert!(gone.is_empty(), "the program does not have these remedies: {gone:#?}");
    println!(
        "{} remedies: {here} followed here, {} elsewhere, {} that no test can follow; {} parts",
        known.len() - PARTS.len(),
        ELSEWHERE.len(),
        NOWHERE.len(),
        PARTS.len()
    );
}
