//! The table of what was run says what the tests fetch and build.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The version that the tests build of a Go module.
fn pinned(part: &str, module: &str) -> String {
    let text = text(&format!("tests/cluster/modules/{part}/go.mod"));
    let mark = format!("{module} v");
    let line = text.lines().find_map(|line| Some(line.split_once(&mark)?.1.to_owned()));
    let line = line.unwrap_or_else(|| panic!("no {module} in {part}"));
    line.split(' ').next().unwrap().into()
}

#[test]
fn what_was_run_is_what_the_tests_pin() {
    let setup = text("tests/tools/setup");
    let (_, newest) = setup.split_once("MONGOD_VERSION = \"").unwrap();
    let (_, older) = setup.split_once("OLDER = {").unwrap();
    let older = older.split_once("\n}").unwrap().0;
    let older: Vec<_> =
        older.lines().filter_map(|line| line.strip_prefix("    \"")?.split('"').next()).collect();
    assert!(older.len() > 1, "{older:?}");
    let helms = [pinned("helm3", "helm.sh/helm/v3"), pinned("helm4", "helm.sh/helm/v4")];
    let expected = [
        (
            "MongoDB, replica sets and standalone servers",
            newest.split('"').next().unwrap().to_owned(),
        ),
        ("MongoDB, a part of the tests", older.join(", ")),
        ("Kubernetes", pinned("kube", "k8s.io/kubernetes")),
        ("containerd", pinned("containerd", "github.com/containerd/containerd/v2")),
        ("Helm", helms.join(", ")),
        ("Argo CD", pinned("argocd", "github.com/argoproj/argo-cd/v3")),
        ("Docker Compose", pinned("compose", "github.com/docker/compose/v2")),
        ("Rust, the oldest and the one that is used", env!("CARGO_PKG_RUST_VERSION").into()),
    ];
    let page = text("SECURITY.md");
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix("| ")?.split(" | ").collect();
        (cells.len() == 3 && !cells[0].starts_with('-')).then(|| (cells[0], cells[1].to_owned()))
    });
    let rows: BTreeMap<_, _> = rows.collect();
    assert_eq!(rows, BTreeMap::from(expected));
}
