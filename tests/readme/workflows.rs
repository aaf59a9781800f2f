//! The workflows run what a laptop runs: the steps of `.ci/run`, and the scripts of `release/`.

use std::fs;
use std::path::Path;

use serde_norway::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_workflow_has_the_steps_of_ci_and_no_others() {
    let ci = text(".ci/run");
    let steps: Vec<_> = ci.lines().filter_map(|line| line.strip_prefix("step make ")).collect();
    let workflow: Value = serde_norway::from_str(&text(".github/workflows/ci.yml")).unwrap();
    let matrix = &workflow["jobs"]["step"]["strategy"]["matrix"]["step"];
    let jobs: Vec<_> =
        matrix.as_sequence().unwrap().iter().map(|job| job.as_str().unwrap()).collect();
    assert_eq!(jobs, steps);
    assert!(ci.matches("\nstep ").count() == steps.len(), "a step that is no target of make");
}

#[test]
fn every_script_that_a_workflow_or_a_page_names_is_there_and_can_be_run() {
    let mut named = 0;
    for page in [".github/workflows/release.yml", "CONTRIBUTING.md", "docs/image.md"] {
        for word in text(page).split([' ', '`', '\n', ',', '.']) {
            if word.starts_with("release/") && word.len() > "release/".len() {
                let metadata = fs::metadata(Path::new(ROOT).join(word));
                let mode =
                    std::os::unix::fs::PermissionsExt::mode(&metadata.unwrap().permissions());
                assert_eq!(mode & 0o111, 0o111, "{page}: {word}");
                named += 1;
            }
        }
    }
    assert!(named > 5, "{named}");
}

/// A tag can be moved to other code by whoever takes over an action; a commit cannot.
#[test]
fn every_action_is_pinned_to_a_commit_with_its_version() {
    let mut pinned = 0;
    for workflow in ["ci", "release"] {
        let workflow = text(&format!(".github/workflows/{workflow}.yml"));
        for line in workflow.lines().filter(|line| line.contains("uses: ")) {
            let (action, version) = line.split_once(" # v").unwrap_or_else(|| panic!("{line}"));
            let (_, commit) = action.split_once('@').unwrap();
            assert!(commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{line}");
            assert_eq!(version.split('.').count(), 3, "{line}");
            pinned += 1;
        }
    }
    assert!(pinned >= 12, "{pinned}");
}
